//! What the rules say about everything that a device says, asks for or is told: readings, MQTT
//! publishes and subscriptions, commands. `tombolo acl explain` prints it, `tombolo acl test`
//! compares it with expectations.

use std::fmt;
use std::time::Instant;

use serde_json::{Value, json};

use super::Settings;
use crate::downlink::router::{Directory, Refusal, Routed, Router};
use crate::downlink::settings::Settings as Downlink;
use crate::gate::explain::{Candidate, FilterView, NearestRule, format_text, levels_in_common, nearest};
use crate::gate::stage::Refusal as Refused;
use crate::gate::{Gate, Supposed};
use crate::message::{ContentFormat, Method, Name, Path};
use crate::southbound::mqtt::bus::Client;
use crate::southbound::mqtt::explain::{
    Deciding, Judged, Lacking, highest_qos, paths_of_commands, publish, publish_allowing, publish_grant,
    publish_lacks, publishable, receivable, subscribe, subscribe_lacks,
};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A reading, with this method.
    Reading(Method),
    /// A publish of a local MQTT client.
    Publish,
    /// A subscription of a local MQTT client.
    Subscribe,
    /// A command to the device, at a path of `[topics] command`.
    Command,
}

impl Question {
    /// All words, for messages.
    pub const WORDS: &str = "POST, PUT, DELETE, publish, subscribe, command";

    /// Parses a word; case is ignored.
    pub fn parse(text: &str) -> Option<Question> {
        match text.to_ascii_lowercase().as_str() {
            "publish" => Some(Question::Publish),
            "subscribe" => Some(Question::Subscribe),
            "command" => Some(Question::Command),
            _ => Method::parse(text).map(Question::Reading),
        }
    }
}

/// Parses the content format of a reading: a number, a media type, or `none`, which is a reading
/// without one.
///
/// # Errors
/// What to write.
pub fn content_format(text: &str) -> Result<Option<ContentFormat>, String> {
    if text == "none" {
        return Ok(None);
    }
    let known = text.parse().ok().map(ContentFormat).or_else(|| ContentFormat::from_media_type(text));
    known.map(Some).ok_or_else(|| {
        format!(
            "{text:?} is not a content format that CoAP knows; write its number, or its media type, or none"
        )
    })
}

/// What is supposed about a reading, as the user wrote it.
///
/// # Errors
/// What to write.
pub fn supposed(
    content_format: Option<&str>,
    bytes: Option<u64>,
    retain: bool,
) -> Result<Supposed<'static>, String> {
    Ok(Supposed {
        content_format: content_format.map(self::content_format).transpose()?,
        bytes: bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        // No bytes are a payload, too; without the question it is not known.
        payload: bytes.filter(|bytes| *bytes == 0).map(|_| &b""[..]),
        retain,
    })
}

/// What is wrong with a question that has RETAIN: it is a flag of MQTT.
pub const RETAIN_OF_PUBLISH: &str = "retain is of a publish; a reading of CoAP is retained if its rule says so, and DELETE deletes what is retained";

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Question::Reading(method) => method.as_str(),
            Question::Publish => "publish",
            Question::Subscribe => "subscribe",
            Question::Command => "command",
        })
    }
}

/// The devices of the gate, as the router looks them up.
struct Devices<'g>(&'g Gate, Instant);

impl Directory for Devices<'_> {
    fn device(&self, id: &str) -> Option<(Name, Name)> {
        let Devices(gate, now) = self;
        let view = gate.device(*now, gate.device_by_id(id)?)?;
        Some((view.id.clone(), view.role.clone()))
    }

    fn devices_of(&self, role: &Name) -> Vec<Name> {
        let Devices(gate, now) = self;
        gate.devices(*now).filter(|view| view.role == role).map(|view| view.id.clone()).collect()
    }

    fn takes_copies(&self, _: &str) -> bool {
        true
    }
}

/// What the rules say, with the keys of an [`Explanation`](crate::gate::Explanation). `path`: a
/// path, the topic of a publish, or a filter. What is `supposed` counts for readings; of a publish
/// to local clients its size does.
pub fn explain(
    settings: &Settings,
    gate: &Gate,
    now: Instant,
    device: &str,
    question: Question,
    path: &str,
    supposed: Supposed<'_>,
) -> Value {
    let reading = |method| {
        let explained = gate.explain_supposed(now, device, method, path, supposed);
        serde_json::to_value(explained).unwrap_or_default()
    };
    let view = gate.device_by_id(device).and_then(|index| gate.device(now, index));
    let Some((role, tags)) = view.map(|view| (view.role.clone(), view.tags)) else {
        let mut value = reading(Method::Post);
        value["method"] = question.to_string().into();
        return value;
    };
    let client = Client { device, tags };
    let local = settings.mqtt.local.iter().find(|(name, _)| *name == role).map(|(_, rules)| rules);
    let said = |judged: &Judged, kind: &str| {
        let mut from = None;
        let mut decides = |kind: &str, rule: &Deciding, does: &str| {
            from = rule.from.as_ref().map(Name::to_string);
            let of = from.as_ref().map(|role| format!(" of role {role}")).unwrap_or_default();
            let decides = format!("{kind}.{}", rule.name);
            let why = format!("rule {decides}{of} {does}");
            (Some(decides), why)
        };
        let (reason, (decides, why)) = match judged {
            Judged::Local(rule) => (None, decides(kind, rule, "allows it")),
            Judged::Downlink(rule) => {
                (None, decides("downlink", rule, "leads to paths of its own that this filter matches"))
            }
            Judged::Denied(rule) if kind == "local-subscribe" => {
                (Some("denied"), decides(kind, rule, "denies all that a rule would let it receive"))
            }
            Judged::Denied(rule) => (Some("denied"), decides(kind, rule, "denies it")),
            Judged::NoRule => {
                let why = format!(
                    "no local-subscribe rule and no downlink rule of role {role} matches, and nothing is allowed without one"
                );
                (Some("no_rule"), (None, why))
            }
            Judged::Invalid if kind == "local-subscribe" => {
                (Some("bad_path"), (None, "it is not a topic filter".to_owned()))
            }
            Judged::Invalid => (Some("bad_path"), (None, "it is not a topic".to_owned())),
            Judged::Shared => (Some("bad_path"), (None, "shared subscriptions are not offered".to_owned())),
        };
        let mut value = json!({
            "device": device, "method": question.to_string(), "path": path, "query": null,
            "allowed": judged.is_allowed(), "reason": reason, "why": why,
            "role": role.as_str(), "rule": decides, "matched": [], "publish": null, "max_payload": null,
            "quota": null,
        });
        if let Some(from) = from {
            value["rule_from"] = from.into();
        }
        if let Judged::Local(rule) = judged {
            if !rule.content_formats.is_empty() {
                value["content_formats"] = rule.content_formats.iter().map(format_text).collect();
            }
            if rule.filter.first_key().is_some() {
                value["filter"] = serde_json::to_value(FilterView::from(&rule.filter)).unwrap_or_default();
            }
        }
        value
    };
    match question {
        Question::Reading(method) => reading(method),
        Question::Publish => {
            // An uplink rule, else a local-publish rule: as a client's publish is judged.
            let index = gate.device_by_id(device);
            let is_reading =
                Path::parse(path).is_ok_and(|path| index.is_some_and(|index| gate.has_rule(index, path)));
            let judged = publish(local, client, path);
            if let (Err(error), false) = (Path::parse(path), judged.is_allowed()) {
                let mut value = said(&Judged::Invalid, "local-publish");
                value["why"] = error.to_string().into();
                return value;
            }
            if is_reading || !judged.is_allowed() {
                // A `?` of a topic is no query.
                let asked = path.replace('?', "%3F");
                let deletes = supposed.deletes();
                let method = if deletes { Method::Delete } else { Method::Post };
                let explained = gate.explain_supposed(now, device, method, &asked, supposed);
                let mut value = serde_json::to_value(explained).unwrap_or_default();
                value["method"] = question.to_string().into();
                if deletes && value["allowed"] == true {
                    value["deletes"] = true.into();
                }
                if supposed.retain && value["publish"]["retain"] == false && value["deletes"] != true {
                    let why = value["why"].as_str().unwrap_or_default();
                    let rule = value["rule"].as_str().unwrap_or_default();
                    let advice = "the broker does not retain it, whatever the client says";
                    value["why"] = format!("{why}; rule {rule} has no retain = true, so {advice}").into();
                }
                match &judged {
                    Judged::Denied(rule) if !is_reading => {
                        let name = format!("local-publish.{}", rule.name);
                        value["why"] = format!("no uplink rule matches, and rule {name} denies it").into();
                        value["reason"] = "denied".into();
                        value["rule"] = name.into();
                        if let Some(from) = &rule.from {
                            value["rule_from"] = from.as_str().into();
                        }
                        if let Some(value) = value.as_object_mut() {
                            value.remove("nearest");
                        }
                    }
                    Judged::NoRule if !is_reading && value["reason"] == "no_rule" => {
                        let uplink = serde_json::from_value::<NearestRule>(value["nearest"].take()).ok();
                        let rules = local;
                        let local = nearest(publishable(rules, client), path);
                        if value["matched"].as_array().is_none_or(Vec::is_empty) {
                            value["why"] = format!(
                                "no uplink rule and no local-publish rule of role {role} matches, and a topic that no rule allows is refused"
                            )
                            .into();
                        }
                        add_nearest(&mut value, [uplink, local], path);
                        let has_other = value["matched"].as_array().is_some_and(|rules| !rules.is_empty());
                        let lacks = publish_lacks(rules, client, path).filter(|_| !has_other);
                        add_lacking(&mut value, lacks, "local-publish");
                    }
                    _ => {}
                }
                return value;
            }
            if let Some(limit) = index.and_then(|index| gate.local_limit(index))
                && supposed.bytes > limit as usize
            {
                let refusal = Refused::TooLarge { limit };
                let mut value = said(&judged, "local-publish");
                value["allowed"] = false.into();
                value["reason"] = refusal.reason().as_str().into();
                value["why"] = refusal.to_string().into();
                return value;
            }
            let mut value = said(&judged, "local-publish");
            let why = value["why"].as_str().unwrap_or_default().to_owned();
            let grant = publish_grant(local, client, path);
            let retain = match (supposed.retain, grant.retain) {
                (true, false) => {
                    let rules: Vec<String> = publish_allowing(local, client, path)
                        .map(|rule| format!("local-publish.{}", rule.name))
                        .collect();
                    let (noun, has) = if rules.len() == 1 { ("rule", "has") } else { ("rules", "have") };
                    format!(", and is not retained: {noun} {} {has} retain = false", rules.join(", "))
                }
                _ => String::new(),
            };
            value["why"] =
                format!("no uplink rule matches; {why}: it goes to local clients, never upstream{retain}")
                    .into();
            value["local"] = json!({ "qos": grant.qos, "retain": grant.retain });
            if supposed.deletes() && grant.retain {
                value["deletes"] = true.into();
            }
            value
        }
        Question::Subscribe => {
            let downlink = settings.gate.roles.iter().find(|known| known.name == role);
            let downlink = downlink.map_or(&[][..], |role| &role.downlink);
            let judged = subscribe(local, downlink, client, path);
            let mut value = said(&judged, "local-subscribe");
            if judged == Judged::NoRule {
                let of_each =
                    [nearest(receivable(local, client), path), nearest(paths_of_commands(downlink), path)];
                add_nearest(&mut value, of_each, path);
                add_lacking(&mut value, subscribe_lacks(local, client, path), "local-subscribe");
            }
            if judged.is_allowed() {
                let max_queued = settings.mqtt.max_queued;
                value["granted_qos"] = highest_qos(local, downlink, client, path, max_queued).into();
            }
            value
        }
        Question::Command => command(settings, gate, now, device, &role, path),
    }
}

/// Names the rule that would allow it to a device that has the tag.
fn add_lacking(value: &mut Value, lacking: Option<Lacking<'_>>, kind: &str) {
    let Some(Lacking { rule, from, tag }) = lacking else { return };
    let role = from.map(Name::as_str).or(value["role"].as_str()).unwrap_or_default();
    let device = value["device"].as_str().unwrap_or_default();
    let why = format!(
        "rule {kind}.{rule} of role {role} needs the tag {tag} for its topic, and device {device} does not have it; no other rule matches"
    );
    value["why"] = why.into();
    value["lacks_tag"] =
        json!({ "rule": format!("{kind}.{rule}"), "from": from.map(Name::as_str), "tag": tag });
}

/// Adds the rules that come nearest, one of each kind: the nearer one first.
fn add_nearest(value: &mut Value, of_each: [Option<NearestRule>; 2], path: &str) {
    let mut found: Vec<NearestRule> = of_each.into_iter().flatten().collect();
    found.sort_by_key(|rule| std::cmp::Reverse(levels_in_common(&rule.path, path)));
    let mut found = found.into_iter().map(|rule| serde_json::to_value(rule).unwrap_or_default());
    if let Some(value) = value.as_object_mut() {
        value.remove("nearest");
        value.extend(found.next().map(|first| ("nearest".to_owned(), first)));
        value.extend(found.next().map(|other| ("nearest_other".to_owned(), other)));
    }
}

fn command(settings: &Settings, gate: &Gate, now: Instant, device: &str, role: &Name, path: &str) -> Value {
    let router = Router::new(&settings.downlink);
    let mut value = json!({
        "device": device, "method": "command", "path": path, "query": null, "allowed": false,
        "reason": "no_rule", "why": "", "role": role.as_str(), "rule": null, "matched": [], "publish": null,
        "max_payload": null, "quota": null,
    });
    let Some(topic) = router.command_topic(device, path) else {
        value["why"] = "topics.command is switched off".into();
        return value;
    };
    match router.route(&topic, &Devices(gate, now)) {
        Routed::To(targets) => match targets.iter().find(|target| target.device.as_str() == device) {
            Some(target) => {
                let rule = format!("downlink.{}", target.rule.name);
                value["allowed"] = true.into();
                value["reason"] = Value::Null;
                value["why"] = format!("rule {rule} allows {topic}, as {} at the device", target.path).into();
                value["rule"] = rule.into();
                if let Some(from) = &target.rule.from {
                    value["rule_from"] = from.as_str().into();
                }
            }
            None => value["why"] = "it is for other devices".into(),
        },
        Routed::Refused { refusal, .. } => {
            if let Refusal::Denied(rule) = &refusal {
                value["rule"] = format!("downlink.{rule}").into();
                value["reason"] = "denied".into();
            }
            value["why"] = format!("{refusal} ({topic})").into();
        }
        Routed::Nothing => value["why"] = format!("no downlink rule matches {topic}").into(),
    }
    if value["reason"] == "no_rule"
        && let Some(nearest) = nearest(commandable(&settings.downlink, device, role), &topic)
    {
        value["nearest"] = serde_json::to_value(nearest).unwrap_or_default();
    }
    value
}

/// What a device may be told, by the topics of messages, for the rule that comes nearest.
fn commandable<'s>(
    downlink: &'s Downlink,
    device: &'s str,
    role: &'s Name,
) -> impl Iterator<Item = Candidate> + 's {
    let role = downlink.roles.iter().find(|known| known.name == *role);
    let rules = role.map_or(&[][..], |role| &role.rules).iter().filter(|rule| !rule.deny);
    rules.map(move |rule| {
        let from = rule.from.as_ref().map(Name::to_string);
        (format!("downlink.{}", rule.name), from, downlink.topic_of(rule, device))
    })
}
