//! Commands: `[topics] command`, `request`, `subscribe` and `reply`, and the downlink rules of
//! roles, as one setting.

use std::collections::HashSet;

use super::Context;
use super::role::places;
use crate::config::model;
use crate::downlink::filter::{Filter, uncovered};
use crate::downlink::remote::{Remote, Verb};
use crate::downlink::settings::{RoleDownlink, Settings};
use crate::gate::Role;
use crate::message::{Name, RESERVED_DEVICE};

/// `[topics] command`, unless it is configured.
pub(super) const COMMAND: &str = "{prefix}/{device}/down/{path}";
/// `[topics] request`, unless it is configured.
pub(super) const REQUEST: &str = "{prefix}/{device}/request/{id}/{path}";
/// `[topics] reply`, unless it is configured.
pub(super) const REPLY: &str = "{prefix}/{device}/reply/{path}";
/// One SUBSCRIBE has no more filters: some brokers take no more.
const FILTERS_MAX: usize = 8;

/// What is configured of commands; `roles` as the gate takes them.
pub(super) fn downlink(
    cx: &mut Context<'_>,
    table: &model::Topics,
    prefix: &str,
    gateway: &Name,
    roles: &[Role],
    (allowed, hint): (&model::Remote, Option<&str>),
) -> Settings {
    let filled = |text: &str| text.replace("{prefix}", prefix).replace("{gateway}", gateway.as_str());
    let mut topic = |name: &str, text: &Option<String>, default: &str, needed: &[&str]| {
        let text = text.as_deref().unwrap_or(default);
        if text.is_empty() {
            return None;
        }
        if let Err(wrong) = check(text, needed) {
            let advice = format!("use one like {default:?}, or \"\" to switch it off");
            cx.fatal(&["topics", name], wrong, &advice);
            return None;
        }
        Some(filled(text))
    };
    let command = topic("command", &table.command, COMMAND, &["device", "path"]);
    let request = topic("request", &table.request, REQUEST, &["device", "id", "path"]);
    let reply = topic("reply", &table.reply, REPLY, &["device", "path"]);
    let roles: Vec<RoleDownlink> = roles
        .iter()
        .map(|role| RoleDownlink {
            name: role.name.clone(),
            rules: role.downlink.clone(),
            mailbox: role.mailbox.clone(),
        })
        .collect();
    let gateway_topic =
        command.as_deref().map(|command| command.replace("{device}", RESERVED_DEVICE).replace("{path}", ""));
    let remote = Remote {
        allow: allowed_verbs(cx, allowed, gateway_topic.is_some()),
        head: gateway_topic,
        hint: hint.map(str::to_owned),
    };
    let mut settings = Settings {
        prefix: prefix.to_owned(),
        gateway: gateway.as_str().to_owned(),
        command,
        request,
        reply,
        remote,
        filters: Vec::new(),
        roles,
        served: Default::default(),
    };
    if settings.is_wanted() || !settings.remote.allow.is_empty() {
        settings.filters = filters(cx, table, &settings, filled);
    }
    settings
}

/// What is subscribed to.
fn filters(
    cx: &mut Context<'_>,
    table: &model::Topics,
    settings: &Settings,
    filled: impl Fn(&str) -> String,
) -> Vec<String> {
    let (mut filters, mut known) = (Vec::new(), HashSet::new());
    let mut add = |filter: String| {
        if !filter.is_empty() && known.insert(filter.clone()) {
            filters.push(filter);
        }
    };
    if let Some(text) = &table.subscribe {
        add(Filter::parse(&filled(text)).to_mqtt());
    } else {
        let rules = settings.roles.iter().flat_map(|role| &role.rules).filter(|rule| !rule.deny);
        rules.for_each(|rule| add(Filter::parse(&filled(&rule.topic)).to_mqtt()));
    }
    if let Some(request) = settings.request.as_ref().filter(|_| settings.command.is_some()) {
        add(Filter::parse(request).to_mqtt());
    }
    let remote = &settings.remote;
    if let Some(head) = remote.head.as_ref().filter(|_| !remote.allow.is_empty()) {
        filters.push(format!("{head}#"));
    }
    // Where two filters match, some brokers send a message twice, by two packet ids: two commands.
    let filters = uncovered(filters);
    if filters.len() > FILTERS_MAX {
        let message =
            format!("the downlink rules have {} different topics, more than {FILTERS_MAX}", filters.len());
        cx.fatal(&["topics", "subscribe"], message, "set topics.subscribe to one filter that has them all");
    }
    filters
}

/// `[remote] allow`.
fn allowed_verbs(cx: &mut Context<'_>, table: &model::Remote, has_topic: bool) -> Vec<Verb> {
    let mut allow = Vec::new();
    for text in table.allow.iter().flatten() {
        match Verb::parse(text) {
            Some(verb) if !allow.contains(&verb) => allow.push(verb),
            Some(_) => {}
            None => {
                let advice = format!("use some of: {}", Verb::names());
                cx.fatal(&["remote", "allow"], format!("there is no command {text:?}"), &advice);
            }
        }
    }
    if !has_topic && !allow.is_empty() {
        let message = "[topics] command is switched off, on which these commands come";
        cx.fatal(&["remote", "allow"], message, "remove topics.command, or remote.allow");
    }
    allow
}

/// A template with exactly these placeholders beside `{prefix}` and `{gateway}`, the path last.
fn check(text: &str, needed: &[&str]) -> Result<(), String> {
    if text.starts_with('$') {
        return Err("topics that begin with '$' are reserved for the broker".to_owned());
    }
    for place in places(text) {
        match place {
            Ok("prefix" | "gateway") => {}
            Ok(name) if needed.contains(&name) => {}
            Ok(name) => return Err(format!("{{{name}}} is not a placeholder here")),
            Err(()) => return Err("'{' and '}' may only enclose a placeholder, as in {device}".to_owned()),
        }
    }
    for name in needed {
        let place = format!("{{{name}}}");
        let whole = text.split('/').filter(|level| *level == place).count();
        if whole != 1 || text.matches(&place).count() != 1 {
            return Err(format!("{place} must be one whole level of it"));
        }
    }
    if !text.ends_with("/{path}") {
        return Err("{path} must be its last level".to_owned());
    }
    let level = |level: &str| !level.is_empty() && level.chars().all(crate::message::is_topic_character);
    if !text.split('/').all(level) {
        return Err("a topic has no empty level, no '+', '#' or control character".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_its_placeholders_as_whole_levels_and_the_path_last() {
        let needed = ["device", "path"];
        assert_eq!(check(COMMAND, &needed), Ok(()));
        assert_eq!(check(REPLY, &needed), Ok(()));
        assert_eq!(check(REQUEST, &["device", "id", "path"]), Ok(()));
        for text in [
            "a/{device}",
            "a/{path}",
            "a/x{device}/{path}",
            "a/{device}/{path}/b",
            "a/{role}/{device}/{path}",
            "$a/{device}/{path}",
            "a//{device}/{path}",
            "a/+/{device}/{path}",
            "a/{device}/{device}/{path}",
        ] {
            assert!(check(text, &needed).is_err(), "{text}");
        }
    }
}
