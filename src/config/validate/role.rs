//! `[role.*]`: permissions and mappings, checked key by key. The gate checks the rest: see `judge`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Context;
use crate::config::acl::content_format;
use crate::config::model;
use crate::gate::field::FieldPointer;
use crate::gate::pattern::Pattern;
use crate::gate::settings::ReadingFilter;
use crate::gate::template::Template;
use crate::gate::{Deliver, DownlinkRule, MailboxLimits, QoS, QueryUse, Quota, Role, UplinkRule, WhenFull};
use crate::message::{Envelope, Lane, Name};
use crate::proto::Holder;

/// The roles in name order, and the names of those with a fault. A fault in one rule disables its
/// whole role, because the role without that rule could allow readings that it should deny.
pub(super) fn roles(
    cx: &mut Context<'_>,
    tables: &BTreeMap<String, model::Role>,
) -> (Vec<Role>, BTreeSet<Name>) {
    let mut roles = Vec::new();
    let mut faulty = BTreeSet::new();
    for (name, table) in tables {
        if table.enabled == Some(false) {
            continue;
        }
        let mut faults = Vec::new();
        let role = role(cx, name, table, &mut faults);
        if !faults.is_empty() {
            faulty.extend(Name::parse(name));
        }
        roles.extend(role);
        for Fault { key, message, advice } in faults {
            let key: Vec<&str> = ["role", name].into_iter().chain(key.iter().map(String::as_str)).collect();
            cx.fail(&format!("role {name}"), &key, message, &advice);
        }
    }
    (roles, faulty)
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

fn role(cx: &mut Context<'_>, name: &str, table: &model::Role, faults: &mut Vec<Fault>) -> Option<Role> {
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
    if faults.is_empty() && !uplink.iter().any(|rule| !rule.deny) {
        let message = "no uplink rule allows anything: every reading of its devices is refused";
        cx.warn(&format!("role {name}"), &["role", name], message, &format!("add [role.{name}.uplink.NAME]"));
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
    let pattern = Pattern::parse(path).map_err(|error| {
        let advice = "use levels joined by '/', '+' for one level, '#' at the end for all the rest";
        fault(faults, &["uplink", name, "path"], format!("{path:?}: {error}"), advice);
    });
    let pattern = pattern.ok()?;
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
    let mut content_formats = Vec::new();
    for text in table.content_formats.iter().flatten() {
        match content_format(text) {
            Ok(format) => content_formats.push(format),
            Err(message) => {
                let advice = "use media types and numbers, like [\"application/json\", \"60\"]; \"none\" is a reading without one";
                fault(faults, &["uplink", name, "content-formats"], message, advice);
            }
        }
    }
    Some(UplinkRule {
        name: Name::parse(name).ok()?,
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
        filter: filter(name, table, faults),
    })
}

fn filter(name: &str, table: &model::Uplink, faults: &mut Vec<Fault>) -> ReadingFilter {
    let key = ["uplink", name, "dead-band-field"];
    let field = table.dead_band_field.as_deref().map(FieldPointer::parse).transpose();
    let field = field.unwrap_or_else(|error| {
        let text = table.dead_band_field.as_deref().unwrap_or_default();
        fault(faults, &key, format!("{text:?}: {error}"), "write it like \"/env/temperature\"");
        None
    });
    if table.dead_band_field.is_some() && table.dead_band.is_none() {
        fault(faults, &key, "there is no dead-band", "set dead-band, like 0.5");
    }
    ReadingFilter {
        on_change: table.on_change.unwrap_or(false),
        dead_band: table.dead_band,
        dead_band_field: field,
        min_interval: table.min_interval.map(|span| span.0),
    }
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
