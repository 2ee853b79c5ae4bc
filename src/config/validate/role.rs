//! `[role.*]`: permissions and mappings, checked key by key. The gate checks the rest: see `judge`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Context;
use super::filter;
use super::includes::{self, Tables};
use crate::config::acl::content_format;
use crate::config::model;
use crate::config::scalar::did_you_mean;
use crate::gate::pattern::Pattern;
use crate::gate::template::Template;
use crate::gate::{
    Deliver, DownlinkRule, MailboxLimits, OnBehalfRule, QoS, QueryUse, Quota, Role, UplinkRule, WhenFull,
};
use crate::message::{ContentFormat, Envelope, Lane, Name};
use crate::proto::Holder;

/// The roles in name order, and the names of those with a fault. A fault in one rule disables its
/// whole role, and those that include it, because the role without that rule could allow readings
/// that it should deny.
pub(super) fn roles(cx: &mut Context<'_>, tables: &Tables) -> (Vec<Role>, BTreeSet<Name>) {
    let mut own = BTreeMap::new();
    for (name, table) in tables.iter().filter(|(_, table)| table.enabled != Some(false)) {
        let mut faults = Vec::new();
        let role = role(name, table, tables, &mut faults);
        own.insert(name.as_str(), (role, faults));
    }
    let mut roles = Vec::new();
    let mut faulty = BTreeSet::new();
    for name in tables.keys() {
        let Some((role, own_faults)) = own.get(name.as_str()) else { continue };
        let mut faults = Vec::new();
        let role = role.clone().map(|role| with_included(role, tables, &own, &mut faults));
        let is_faulty = !faults.is_empty() || !own_faults.is_empty();
        if is_faulty {
            faulty.extend(Name::parse(name));
        } else if let Some(role) = &role
            && !role.uplink.iter().any(|rule| !rule.deny)
            && !is_included(tables, name)
            && !is_local(tables, name)
            && !takes_only_commands(role)
        {
            let message = "no uplink rule allows anything: every reading of its devices is refused";
            let advice = format!("add [role.{name}.uplink.NAME]");
            cx.warn(&format!("role {name}"), &["role", name], message, &advice);
        }
        for rule in role.iter().flat_map(|role| &role.uplink).filter(|rule| rule.from.is_none()) {
            filter::warn_of_contradiction(&rule.filter.when, |message, advice| {
                let key = ["role", name.as_str(), "uplink", rule.name.as_str(), "when"];
                cx.warn(&format!("role {name}"), &key, message, advice);
            });
        }
        roles.extend(role);
        for Fault { key, message, advice } in own_faults.iter().chain(&faults) {
            let key: Vec<&str> =
                ["role", name.as_str()].into_iter().chain(key.iter().map(String::as_str)).collect();
            cx.fail(&format!("role {name}"), &key, message, advice);
        }
    }
    (roles, faulty)
}

/// Whether another role includes this one, which then need not be complete.
fn is_included(tables: &Tables, name: &str) -> bool {
    tables.values().any(|table| table.includes.iter().flatten().any(|included| included == name))
}

/// Whether its rules are about commands alone.
fn takes_only_commands(role: &Role) -> bool {
    role.uplink.is_empty() && role.downlink.iter().any(|rule| !rule.deny)
}

/// Whether it is a role of local MQTT clients alone, such as a dashboard, by its rules or by those
/// it includes.
fn is_local(tables: &Tables, name: &str) -> bool {
    let order = includes::order(tables, name).unwrap_or_default();
    let mut tables = order.iter().filter_map(|name| tables.get(*name));
    tables.any(|table| !table.local_publish.is_empty() || !table.local_subscribe.is_empty())
}

/// The role with the rules of those that it includes.
fn with_included(
    mut role: Role,
    tables: &Tables,
    own: &BTreeMap<&str, (Option<Role>, Vec<Fault>)>,
    faults: &mut Vec<Fault>,
) -> Role {
    let name = role.name.clone();
    let included = match includes::farther(tables, name.as_str()) {
        Ok(included) => included,
        Err(error) => {
            fault(faults, &["includes"], error.to_string(), error.advice());
            return role;
        }
    };
    for included in included {
        let Some((Some(farther), own_faults)) = own.get(included.name) else { continue };
        if !own_faults.is_empty() {
            fault(faults, &["includes"], includes::disabled(included.name), includes::CORRECT);
            continue;
        }
        let of = &farther.name;
        let added = [
            included.add(&mut role.uplink, (of, &farther.uplink), |table| &table.uplink),
            included.add(&mut role.downlink, (of, &farther.downlink), |table| &table.downlink),
            included.add(&mut role.on_behalf, (of, &farther.on_behalf), |table| &table.on_behalf),
        ];
        for replaced in added.into_iter().filter_map(Result::err) {
            fault(faults, &["includes"], replaced.to_string(), includes::RENAME);
        }
    }
    role.uplink.sort_by(|a, b| a.name.cmp(&b.name));
    role.downlink.sort_by(|a, b| a.name.cmp(&b.name));
    role.on_behalf.sort_by(|a, b| a.name.cmp(&b.name));
    role
}

/// A fault within a role; its key is relative to the role's table.
struct Fault {
    key: Vec<String>,
    message: String,
    advice: String,
}

fn fault(faults: &mut Vec<Fault>, key: &[&str], message: impl Into<String>, advice: impl Into<String>) {
    let key = key.iter().map(|part| (*part).to_owned()).collect();
    faults.push(Fault { key, message: message.into(), advice: advice.into() });
}

fn role(name: &str, table: &model::Role, tables: &Tables, faults: &mut Vec<Fault>) -> Option<Role> {
    let default = Quota::default();
    let quota = Quota {
        messages: table.quota.messages.unwrap_or(default.messages),
        bytes: table.quota.bytes.unwrap_or(default.bytes),
        per: table.quota.per.map_or(default.per, |span| span.0),
        burst: table.quota.burst.unwrap_or(default.burst),
    };
    let mut uplink = Vec::new();
    let query = table.query.unwrap_or(model::QueryUse::Publish);
    for (rule, table) in &table.uplink {
        if table.enabled != Some(false) {
            uplink.extend(uplink_rule(rule, table, query, faults));
        }
    }
    let mut downlink = Vec::new();
    for (rule, table) in &table.downlink {
        if table.enabled != Some(false) {
            downlink.extend(downlink_rule(rule, table, faults));
        }
    }
    let mut on_behalf = Vec::new();
    for (rule, table) in table.on_behalf.iter().filter(|(_, table)| table.enabled != Some(false)) {
        on_behalf.extend(on_behalf_rule(rule, table, tables, faults));
    }
    Some(Role {
        name: Name::parse(name).ok()?,
        quota,
        max_payload: table.max_payload,
        offline_after: table.offline_after.map_or(Duration::from_secs(3600), |span| span.0),
        max_sessions: table.max_sessions.unwrap_or(Holder::SESSIONS),
        max_handshakes: table.max_handshakes.unwrap_or(Holder::HANDSHAKES),
        uplink,
        downlink,
        on_behalf,
        mailbox: mailbox(&table.mailbox),
    })
}

/// `query` is the role's value for rules without one.
fn uplink_rule(
    name: &str,
    table: &model::Uplink,
    query: model::QueryUse,
    faults: &mut Vec<Fault>,
) -> Option<UplinkRule> {
    let Some(path) = &table.path else {
        fault(faults, &["uplink", name], "the rule has no path", "set path, like \"t/#\"");
        return None;
    };
    let pattern = pattern(&["uplink", name, "path"], path, faults)?;
    if let Some(capture) = places(path).find_map(Result::ok) {
        let message =
            format!("{path:?}: a rule captures by '+' alone: '{{{capture}}}' stands for itself there");
        let advice =
            format!("use path = {:?}; topic has what each '+' matched as {{1}}, {{2}}, …", pattern_of(path));
        fault(faults, &["uplink", name, "path"], message, advice);
        return None;
    }
    let mut topic = None;
    if let Some(text) = &table.topic {
        match Template::parse(text) {
            Ok(template) => topic = Some(template),
            Err(error) => {
                let advice = "use levels joined by '/', like \"{prefix}/{device}/up/{path}\"";
                fault(faults, &["uplink", name, "topic"], format!("{text:?}: {error}"), advice);
            }
        }
    }
    let content_formats = content_formats(table.content_formats.as_deref(), |message, advice| {
        fault(faults, &["uplink", name, "content-formats"], message, advice);
    });
    Some(UplinkRule {
        name: Name::parse(name).ok()?,
        from: None,
        path: pattern,
        deny: table.deny.unwrap_or(false),
        topic,
        qos: if table.qos == Some(0) { QoS::AtMostOnce } else { QoS::AtLeastOnce },
        retain: table.retain.unwrap_or(false),
        lane: match table.lane {
            Some(model::Lane::High) => Lane::High,
            Some(model::Lane::Normal) | None => Lane::Normal,
        },
        expires: table.expires.map(|span| span.0),
        envelope: match table.envelope {
            Some(model::Envelope::Json) => Envelope::Json,
            Some(model::Envelope::None) | None => Envelope::None,
        },
        delete: table.delete.unwrap_or(false),
        query: match table.query.unwrap_or(query) {
            model::QueryUse::Publish => QueryUse::Publish,
            model::QueryUse::Refuse => QueryUse::Refuse,
        },
        max_payload: table.max_payload,
        content_formats,
        filter: filter::filter(&table.into(), |key, message, advice| {
            fault(faults, &[&["uplink", name], key].concat(), message, advice);
        }),
    })
}

/// The pattern at `key`.
fn pattern(key: &[&str], text: &str, faults: &mut Vec<Fault>) -> Option<Pattern> {
    let parsed = Pattern::parse(text).map_err(|error| {
        let advice = "use levels joined by '/', '+' for one level, '#' at the end for all the rest";
        fault(faults, key, format!("{text:?}: {error}"), advice);
    });
    parsed.ok()
}

/// The content formats of a rule; `fault` takes message and advice.
pub(super) fn content_formats(
    texts: Option<&[String]>,
    mut fault: impl FnMut(String, &str),
) -> Vec<Option<ContentFormat>> {
    let mut formats = Vec::new();
    for text in texts.into_iter().flatten() {
        match content_format(text) {
            Ok(format) => formats.push(format),
            Err(message) => fault(
                message,
                "use media types and numbers, like [\"application/json\", \"60\"]; \"none\" is a reading without one",
            ),
        }
    }
    formats
}

fn downlink_rule(name: &str, table: &model::Downlink, faults: &mut Vec<Fault>) -> Option<DownlinkRule> {
    let deny = table.deny.unwrap_or(false);
    let Some(topic) = &table.topic else {
        fault(
            faults,
            &["downlink", name],
            "the rule has no topic",
            "set topic, like \"{prefix}/{device}/down/#\"",
        );
        return None;
    };
    if let Some(wrong) = filter_fault(topic) {
        let advice = "use a filter like \"{prefix}/{device}/down/#\"";
        fault(faults, &["downlink", name, "topic"], format!("{topic:?}: {wrong}"), advice);
        return None;
    }
    let path = match (&table.path, deny) {
        (Some(path), _) => path.clone(),
        (None, true) => String::new(),
        (None, false) => {
            fault(faults, &["downlink", name], "the rule has no path", "set path, like \"{rest}\"");
            return None;
        }
    };
    let known: BTreeSet<String> = (1..=topic.split('/').filter(|level| *level == "+").count())
        .map(|number| number.to_string())
        .chain(topic.ends_with('#').then(|| "rest".to_owned()))
        .collect();
    if let Some(wrong) = places(&path).find(|place| !place.is_ok_and(|name| known.contains(name))) {
        let message = match wrong {
            Ok(place) => format!("{{{place}}} is not a capture of the topic"),
            Err(()) => "'{' and '}' may only enclose a capture, as in {rest}".to_owned(),
        };
        fault(faults, &["downlink", name, "path"], message, "{1} is the topic's first '+', {rest} its '#'");
        return None;
    }
    let plain = DownlinkRule::new(Name::parse(name).ok()?, topic.clone(), path);
    let deliver = match table.deliver {
        Some(model::Deliver::Request) => Deliver::Request,
        Some(model::Deliver::Observe) => Deliver::Observe,
        Some(model::Deliver::Auto) | None => Deliver::Auto,
    };
    // A state may be told twice, and only the newest counts.
    let is_state = deliver == Deliver::Observe;
    Some(DownlinkRule {
        deny,
        deliver,
        idempotent: table.idempotent.unwrap_or(false) || is_state,
        latest_wins: table.latest_wins.unwrap_or(false) || is_state,
        expires: table.expires.map(|span| span.0),
        answer_within: table.answer_within.map_or(plain.answer_within, |span| span.0),
        ..plain
    })
}

fn on_behalf_rule(
    name: &str,
    table: &model::OnBehalf,
    tables: &Tables,
    faults: &mut Vec<Fault>,
) -> Option<OnBehalfRule> {
    let path = pattern(&["on-behalf", name, "path"], table.path.as_deref().unwrap_or("#"), faults)?;
    let mut roles = Vec::new();
    for role in table.roles.iter().flatten() {
        if tables.contains_key(role) {
            roles.extend(Name::parse(role));
            continue;
        }
        let advice = match did_you_mean(role, tables.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "name roles of the devices behind it".to_owned(),
        };
        fault(faults, &["on-behalf", name, "roles"], format!("there is no role {role:?}"), advice);
        return None;
    }
    let deny = table.deny.unwrap_or(false);
    Some(OnBehalfRule { name: Name::parse(name).ok()?, from: None, path, roles, deny })
}

fn mailbox(table: &model::Mailbox) -> MailboxLimits {
    let default = MailboxLimits::default();
    MailboxLimits {
        messages: table.messages.unwrap_or(default.messages),
        bytes: table.bytes.unwrap_or(default.bytes),
        expires: table.expires.map_or(default.expires, |span| span.0),
        when_full: match table.when_full {
            Some(model::WhenFull::DropOldest) => WhenFull::DropOldest,
            Some(model::WhenFull::Refuse) | None => WhenFull::Refuse,
        },
        awake_for: match table.always_awake {
            Some(true) => None,
            _ => table.awake_for.map(|span| span.0).or(default.awake_for),
        },
    }
}

/// The path of the rule for a device's path with captures: each level with one is `+`.
pub(super) fn pattern_of(path: &str) -> String {
    let levels = path.split('/').map(|level| if level.contains('{') { "+" } else { level });
    levels.collect::<Vec<_>>().join("/")
}

/// The names between braces, in order; `Err` for a brace that encloses nothing.
pub(super) fn places(text: &str) -> impl Iterator<Item = Result<&str, ()>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let at = rest.find(['{', '}'])?;
        let inner = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((name, after)) = inner else {
            rest = "";
            return Some(Err(()));
        };
        rest = after;
        Some(Ok(name))
    })
}

/// The fault of a topic filter, which may have the placeholders `{prefix}`, `{gateway}` and
/// `{device}`.
pub(super) fn filter_fault(filter: &str) -> Option<String> {
    if filter.starts_with('$') {
        return Some("topics that begin with '$' are reserved for the broker".to_owned());
    }
    for place in places(filter) {
        match place {
            Ok("prefix" | "gateway" | "device") => {}
            Ok(name) => {
                return Some(format!(
                    "{{{name}}} is not a placeholder; the placeholders are {{prefix}}, {{gateway}} and {{device}}"
                ));
            }
            Err(()) => return Some("'{' and '}' may only enclose a placeholder, as in {device}".to_owned()),
        }
    }
    let levels: Vec<&str> = filter.split('/').collect();
    for (i, level) in levels.iter().enumerate() {
        let last = i + 1 == levels.len();
        let fault = match *level {
            "" => "a filter has no empty level and no '/' at either end",
            "+" => continue,
            "#" if last => continue,
            "#" => "'#' can only be the last level",
            level if level.contains(['+', '#']) => "'+' and '#' must each be a whole level",
            _ => continue,
        };
        return Some(fault.to_owned());
    }
    None
}
