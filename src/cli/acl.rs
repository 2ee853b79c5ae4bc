//! `tombolo acl explain`: prints whether a reading would pass, and the rule that decides.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

mod expectations;

use super::Context;
use super::args::{AclCommand, ExplainArguments};
use super::error::CommandError;
use super::input::bytes_of_argument;
use super::output::{align, bytes};
use crate::config::acl::{Question, RETAIN_OF_PUBLISH, explain, supposed};
use crate::config::scalar::format_duration;
use crate::control::io::client::{ANSWER, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{Explained, ExplainedFilter};
use crate::downlink::command::PAYLOAD_MAX;
use crate::gate::Gate;
use crate::telemetry::io::hinted;

/// Asks the running daemon for the rules in force; without a daemon, reads the files.
///
/// # Errors
/// [`CommandError::Said`] if the reading would be refused, so that a script can test the exit
/// status.
pub fn run(context: &Context, command: AclCommand) -> Result<(), CommandError> {
    match command {
        AclCommand::Explain(arguments) => explained(context, arguments),
        AclCommand::Test(arguments) => expectations::run(context, &arguments),
    }
}

fn explained(context: &Context, arguments: ExplainArguments) -> Result<(), CommandError> {
    let ExplainArguments { device, method, path, content_format, bytes, payload, retain } = arguments;
    let mut supposed = supposed(content_format.as_deref(), bytes, retain).map_err(CommandError::Usage)?;
    if retain && Question::parse(&method) != Some(Question::Publish) {
        return Err(CommandError::Usage(format!("--retain: {RETAIN_OF_PUBLISH}")));
    }
    let payload = payload.map(|text| bytes_of_argument(&text)).transpose()?;
    if let Some(payload) = &payload {
        if !matches!(Question::parse(&method), Some(Question::Reading(_) | Question::Publish)) {
            let text = format!("--payload is of POST, PUT, DELETE or publish, not of {method}");
            return Err(CommandError::Usage(text));
        }
        if payload.len() > PAYLOAD_MAX {
            let text =
                format!("--payload takes {PAYLOAD_MAX} bytes at most; --bytes says how long a payload is");
            return Err(CommandError::Usage(text));
        }
        supposed = supposed.with_payload(payload);
    }
    let (value, asked) = match context.daemon() {
        Ok(mut daemon) => {
            let payload = payload.map(|payload| STANDARD.encode(payload));
            let request =
                Request::AclExplain { device, method, path, content_format, bytes, payload, retain };
            (daemon.ask(&request, ANSWER)?, "the rules in force")
        }
        Err(ClientError::NotRunning { .. }) => {
            let question = Question::parse(&method).ok_or_else(|| {
                CommandError::Usage(format!("{method:?} is not one of {}", Question::WORDS))
            })?;
            let now = Instant::now();
            let loaded = context.load_whole("acl explain")?;
            let gate = Gate::new(loaded.settings.gate.clone(), now);
            let mut value = explain(&loaded.settings, &gate, now, &device, question, &path, supposed);
            loaded.complete_explanation(&device, &mut value);
            (value, "the rules in the files (tombolo is not running)")
        }
        Err(error) => return Err(error.into()),
    };
    let allowed = value.get("allowed") == Some(&Value::Bool(true));
    if context.out.json {
        context.out.object(&value)?;
    } else {
        let explained: Explained = serde_json::from_value(value)
            .map_err(|error| CommandError::failed(format_args!("the explanation cannot be read: {error}")))?;
        context.out.text(&hinted(&text(&explained, asked)))?;
    }
    if allowed { Ok(()) } else { Err(CommandError::Said) }
}

/// What there is to do about a refusal that does not say so itself.
fn way_out(explained: &Explained) -> &'static str {
    match explained.reason.as_deref() {
        Some("unknown_device") if !explained.why.contains(';') => "; `tombolo device list` names all",
        Some("not_allowed") if explained.method == "DELETE" && !explained.why.contains(';') => {
            "; DELETE needs delete = true and retain = true in the rule"
        }
        Some("not_allowed") if explained.method == "publish" && !explained.why.contains(';') => {
            "; empty and retained it deletes what is retained, which needs delete = true and retain = true in the rule"
        }
        _ => "",
    }
}

/// What is asked about, as the first word of the human form.
fn kind(method: &str) -> &'static str {
    match method {
        "publish" => "publish",
        "subscribe" => "filter",
        "command" => "command",
        _ => "reading",
    }
}

/// The human form.
pub fn text(explained: &Explained, asked: &str) -> String {
    let verdict = match (explained.allowed, &explained.reason) {
        (true, _) => "passes".to_owned(),
        (false, Some(reason)) => format!("is refused ({})", reason.replace('_', " ")),
        (false, None) => "is refused".to_owned(),
    };
    let Explained { device, method, path, query, .. } = explained;
    let query = query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut rows = vec![
        vec![kind(&explained.method).to_owned(), format!("{device} {method} {path}{query} {verdict}")],
        vec!["why".to_owned(), format!("{}{}", explained.why, way_out(explained))],
    ];
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    if let Some(child) = &explained.on_behalf {
        // One that is from another role is named with that.
        let role = child.from.as_ref().unwrap_or(&child.role);
        let mut text =
            format!("{} {}, by on-behalf rule {} of role {role}", child.device, child.path, child.rule);
        // An older gateway does not say it.
        if !child.rule_path.is_empty() {
            text.push_str(&format!(": path {}", child.rule_path));
        }
        row("for", text);
        if let Some(place) = &child.place {
            row("", format!("at {place}"));
        }
    }
    if let Some(role) = &explained.role {
        row("role", role.clone());
    }
    if !explained.tags.is_empty() {
        let tags = explained.tags.iter().map(|(name, value)| format!("{name}={value}"));
        row("tags", tags.collect::<Vec<_>>().join(", "));
    }
    for (at, rule) in explained.matched.iter().enumerate() {
        let decides = if explained.rule.as_ref() == Some(&rule.rule) { ", decides" } else { "" };
        let deny = if rule.deny { ", denies" } else { "" };
        let query = rule.query.as_ref().map(|query| format!(", query {query}")).unwrap_or_default();
        let formats = match &rule.content_formats {
            Some(formats) => format!(", content-formats {}", formats.join(" ")),
            None => String::new(),
        };
        let lacks = rule.lacks_tag.as_ref().map(|tag| format!(", needs the tag {tag}")).unwrap_or_default();
        let from = rule.from.as_ref().map(|role| format!(" of role {role}")).unwrap_or_default();
        let text = format!("{}{from}: path {}{query}{formats}{lacks}{deny}{decides}", rule.rule, rule.path);
        row(if at == 0 { "rules" } else { "" }, text);
    }
    let all_nearest = [&explained.nearest, &explained.nearest_other];
    for (at, nearest) in all_nearest.into_iter().flatten().enumerate() {
        let from = nearest.from.as_ref().map(|role| format!(" of role {role}")).unwrap_or_default();
        let what = if explained.method == "command" { "topic" } else { "path" };
        row(
            if at == 0 { "nearest" } else { "" },
            format!("rule {}{from}, {what} {}: {}", nearest.rule, nearest.path, nearest.why),
        );
        if let Some(place) = &nearest.place {
            row("", format!("at {place}"));
        }
    }
    if let Some(place) = explained.lacks_tag.as_ref().and_then(|lacking| lacking.place.as_ref()) {
        row("where", place.clone());
    }
    if let Some(place) = &explained.rule_place {
        row("where", place.clone());
    }
    if let Some(publish) = &explained.publish {
        let mut text = format!("{}, QoS {}, lane {}", publish.topic, publish.qos, publish.lane);
        if publish.retain {
            text.push_str(", retained");
        }
        if let Some(seconds) = publish.expires {
            text.push_str(&format!(", expires after {}", super::output::span(u64::from(seconds))));
        }
        if let Some(envelope) = &publish.envelope {
            text.push_str(&format!(", wrapped in {envelope}"));
        }
        row("topic", text);
        if let Some(filter) = &publish.filter {
            row("filter", format!("acknowledged and not published: {}", held_back(filter)));
            if let Some(why) = &explained.held_back {
                row("", format!("this one is not published now: {why}"));
            }
        }
        if let Some(query) = &explained.query {
            let place = match publish.envelope {
                Some(_) => "member of the envelope",
                None => "MQTT 5 user property",
            };
            row("query", format!("{query}, as the {place} query"));
        }
    }
    if let Some(local) = &explained.local {
        let retain = if local.retain { "retained if it says so" } else { "not retained" };
        row("granted", format!("QoS {} at most, {retain}", local.qos));
    }
    if explained.deletes {
        row("deletes", "the retained message of its topic, being empty and retained".to_owned());
    }
    if let Some(qos) = explained.granted_qos {
        row("granted", format!("QoS {qos} at most"));
    }
    if let Some(formats) = &explained.content_formats {
        row("formats", formats.join(" "));
    }
    if let Some(filter) = &explained.filter {
        row("filter", format!("not delivered: {}", held_back(filter)));
    }
    if let Some(size) = &explained.max_payload {
        row(
            "payload",
            // A publish comes whole, too.
            match explained.serial || explained.method == "publish" {
                true => format!("up to {}", bytes(size.blockwise)),
                false => format!("up to {}, by Block1 {}", bytes(size.datagram), bytes(size.blockwise)),
            },
        );
    }
    if let Some(quota) = &explained.quota {
        row(
            "quota",
            format!(
                "{} of {} messages and {} of {} left now",
                quota.messages_left,
                quota.messages_burst,
                bytes(quota.bytes_left),
                bytes(quota.bytes_burst)
            ),
        );
    }
    if let (Some(share), Some(publish)) = (&explained.share, &explained.publish)
        && share.bytes.saturating_mul(10) >= share.max_bytes.saturating_mul(9)
    {
        row(
            "share",
            format!(
                "its device's records have {} of their {} of the lane {}: the journal refuses what has no room there, until \
                 some are delivered",
                bytes(share.bytes),
                bytes(share.max_bytes),
                publish.lane
            ),
        );
    }
    row("asked", asked.to_owned());
    align(&rows)
}

/// What a filter holds back.
fn held_back(filter: &ExplainedFilter) -> String {
    let mut held = Vec::new();
    if !filter.when.is_empty() {
        held.push(format!("what this does not hold for: {}", filter.when.join("; and ")));
    }
    if filter.on_change {
        held.push("what equals the reading before".to_owned());
    }
    if let Some(band) = filter.dead_band {
        let field = filter.dead_band_field.as_ref().map(|field| format!(" of {field}")).unwrap_or_default();
        held.push(format!("a change{field} of {band} or less"));
    }
    if let Some(ms) = filter.min_interval_ms {
        held.push(format!("what comes within {}", format_duration(Duration::from_millis(ms))));
    }
    held.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_passes_shows_its_rule_and_topic() {
        let explained: Explained = serde_json::from_value(serde_json::json!({
            "device": "door-7", "method": "POST", "path": "t/env", "allowed": true, "why": "rule telemetry allows it",
            "role": "sensor", "rule": "telemetry",
            "matched": [{"rule": "telemetry", "path": "t/#", "deny": false}],
            "publish": {"topic": "tombolo/g/door-7/up/t/env", "qos": 1, "retain": false, "lane": "normal"},
            "max_payload": {"datagram": 1024, "blockwise": 65536},
        }))
        .unwrap();
        assert_eq!(
            text(&explained, "the rules in force"),
            "reading  door-7 POST t/env passes\n\
             why      rule telemetry allows it\n\
             role     sensor\n\
             rules    telemetry: path t/#, decides\n\
             topic    tombolo/g/door-7/up/t/env, QoS 1, lane normal\n\
             payload  up to 1 KiB, by Block1 64 KiB\n\
             asked    the rules in force\n"
        );
    }

    #[test]
    fn a_refusal_has_its_kind_in_words() {
        let explained: Explained = serde_json::from_value(serde_json::json!({
            "device": "door-7", "method": "PUT", "path": "x", "allowed": false, "reason": "no_rule",
            "why": "no rule of role sensor matches x",
        }))
        .unwrap();
        let said = text(&explained, "the rules in force");
        assert!(said.starts_with("reading  door-7 PUT x is refused (no rule)\n"), "{said}");
        for (method, reason, way_out) in [
            ("DELETE", "not_allowed", "why      so; DELETE needs delete = true and retain = true"),
            ("POST", "unknown_device", "why      so; `tombolo device list` names all"),
        ] {
            let refused = Explained {
                method: method.into(),
                reason: Some(reason.into()),
                why: "so".into(),
                ..explained.clone()
            };
            let said = text(&refused, "the rules in force");
            assert!(said.contains(way_out), "{said}");
        }
    }
}
