//! `tombolo acl test`: a table of what the rules are to allow and refuse, for the configuration of
//! a fleet to be tested before it is rolled out.
//!
//! ```text
//! # device       method     path          expected
//! door-7         POST       t/env         allow  topic=tombolo/gw/door-7/up/t/env
//! door-7         POST       secret/x      deny   reason=no_rule
//! role:sensor    publish    home/x        allow  rule=local-publish.own
//! door-7         subscribe  home/#        allow  qos=1
//! ```
//!
//! `qos=` is the highest QoS: of a filter the one that SUBACK grants, of a message the one with
//! which it is delivered.
//!
//! `content-format=`, `bytes=` and, of a publish, `retain=true` are a part of the question, as of
//! `acl explain`: with `bytes=0` too it is one that deletes what is retained. `tag.NAME=` is a
//! tag of the device that stands for a role. A reason may also be written as `acl explain` prints
//! it, `reason=no rule`.
//!
//! It reads the files alone, never the running daemon. `role:NAME` is a device of that role, for
//! where the registry is not: its id is [`STAND_IN`].

use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::args::AclTestArguments;
use crate::cli::error::CommandError;
use crate::cli::input::text_of_or_stdin;
use crate::cli::output::plural;
use crate::config::Settings;
use crate::config::acl::{Question, RETAIN_OF_PUBLISH, explain, supposed};
use crate::config::scalar::did_you_mean;
use crate::gate::tag::Tags;
use crate::gate::{Device, Gate, Reason, SharedDevice, Supposed};
use crate::message::Name;

/// The id of the device that stands for a role.
pub const STAND_IN: &str = "some-device";
/// Largest file, in bytes.
const FILE_MAX: u64 = 16 << 20;
/// What a role begins with in place of a device.
const ROLE: &str = "role:";

/// One line.
#[derive(Debug, PartialEq, Eq)]
struct Expectation {
    line: usize,
    device: String,
    question: Question,
    path: String,
    allowed: bool,
    supposed: Supposed<'static>,
    /// Of the device that stands for a role.
    tags: Tags,
    /// Keys and values that are expected beside.
    also: Vec<(Also, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Also {
    Rule,
    Topic,
    Reason,
    Qos,
}

/// The reasons, as `acl explain --json` has them: of readings, and of topics and filters.
fn reasons() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str).chain(["bad_path", "bad_query"])
}

/// Reads the table; a fault has its line.
fn parse(text: &str) -> Result<Vec<Expectation>, (usize, String)> {
    let mut all = Vec::new();
    for (at, text) in text.lines().enumerate() {
        let line = at + 1;
        let words = text.split_whitespace().collect::<Vec<_>>();
        let Some(first) = words.first().filter(|first| !first.starts_with('#')) else { continue };
        let [_, question, path, expected, rest @ ..] = &words[..] else {
            return Err((line, "a line has a device, a method, a path, and allow or deny".to_owned()));
        };
        let question = Question::parse(question)
            .ok_or_else(|| (line, format!("{question:?} is not one of {}", Question::WORDS)))?;
        let allowed = match *expected {
            "allow" => true,
            "deny" => false,
            other => return Err((line, format!("{other:?} is neither allow nor deny"))),
        };
        let mut also: Vec<(Also, String)> = Vec::new();
        let (mut content_format, mut bytes, mut retain, mut tags) = (None, None, false, Tags::default());
        for word in rest.iter().take_while(|word| !word.starts_with('#')) {
            // As `acl explain` prints it for people: `no rule`.
            if let Some((Also::Reason, reason)) = also.last_mut().filter(|_| !word.contains('=')) {
                *reason = format!("{reason}_{word}");
                continue;
            }
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let key = match key {
                "rule" => Also::Rule,
                "topic" => Also::Topic,
                "reason" => Also::Reason,
                "qos" if matches!(value, "0" | "1" | "2") && allowed => Also::Qos,
                "qos" if allowed => return Err((line, format!("{word:?} is none of qos=0, qos=1, qos=2"))),
                "qos" => return Err((line, format!("{word:?} is of what is allowed, not of deny"))),
                "content-format" => {
                    content_format = Some(value);
                    continue;
                }
                "bytes" => {
                    let number = value.parse::<u64>();
                    bytes = Some(number.map_err(|_| (line, format!("{word:?} is no number of bytes")))?);
                    continue;
                }
                "retain" if question == Question::Publish && matches!(value, "true" | "false") => {
                    retain = value == "true";
                    continue;
                }
                "retain" if question == Question::Publish => {
                    return Err((line, format!("{word:?} is neither retain=true nor retain=false")));
                }
                "retain" => return Err((line, format!("{word:?}: {RETAIN_OF_PUBLISH}"))),
                key if key.starts_with("tag.") && first.starts_with(ROLE) && !value.is_empty() => {
                    tags.set(&key[4..], value).map_err(|error| (line, error.to_string()))?;
                    continue;
                }
                _ => {
                    let known = "rule=, topic=, reason=, qos=, content-format=, bytes=, of a publish retain=, or of a role tag.NAME=";
                    return Err((line, format!("{word:?} is none of {known}")));
                }
            };
            also.push((key, value.to_owned()));
        }
        let mut named = also.iter().filter(|(key, _)| *key == Also::Reason).map(|(_, value)| value);
        if let Some(value) = named.find(|value| !reasons().any(|known| known == value.as_str())) {
            let all = reasons().collect::<Vec<_>>().join(", ");
            return Err((line, format!("{value:?} is no reason; there are: {all}")));
        }
        let supposed = supposed(content_format, bytes, retain).map_err(|what| (line, what))?;
        let (device, path) = ((*first).to_owned(), (*path).to_owned());
        all.push(Expectation { line, device, question, path, allowed, supposed, tags, also });
    }
    Ok(all)
}

/// The settings and their gate, and those of each role that stands for a device.
struct Judge<'s> {
    settings: &'s Settings,
    gate: Gate,
    now: Instant,
}

impl Judge<'_> {
    fn new(settings: &Settings, now: Instant) -> Judge<'_> {
        Judge { settings, gate: Gate::new(settings.gate.clone(), now), now }
    }

    /// What the rules say, and whether there is such a role.
    fn say(&self, expected: &Expectation) -> Result<Value, String> {
        let Expectation { device, question, path, supposed, tags, .. } = expected;
        let Some(role) = device.strip_prefix(ROLE) else {
            return Ok(explain(self.settings, &self.gate, self.now, device, *question, path, *supposed));
        };
        let role = self.settings.gate.roles.iter().find(|known| known.name.as_str() == role);
        let role = role.ok_or_else(|| no_role(self.settings, &device[ROLE.len()..]))?;
        let mut settings = self.settings.gate.clone();
        let stand_in = Name::parse(STAND_IN).into_iter();
        let device = |id| Device { tags: tags.clone(), ..Device::new(id, role.name.clone()) };
        settings.devices = stand_in.map(device).map(SharedDevice::from).collect();
        let gate = Gate::new(settings, self.now);
        Ok(explain(self.settings, &gate, self.now, STAND_IN, *question, path, *supposed))
    }
}

/// What is wrong with `role:NAME`.
fn no_role(settings: &Settings, name: &str) -> String {
    let expects = "role:NAME is the name of a [role.NAME], which a device of no registry then has";
    let known = || settings.gate.roles.iter().map(|role| role.name.as_str());
    let way_out = match did_you_mean(name, known()) {
        Some(near) => format!("did you mean role:{near}?"),
        None if known().next().is_none() => "no role is configured".to_owned(),
        None => format!("there are: {}", known().take(20).collect::<Vec<_>>().join(", ")),
    };
    format!("there is no role {name:?}: {expects}; {way_out}")
}

/// The highest QoS: of a filter as it is granted, of a message as it is published.
fn qos(said: &Value) -> &Value {
    let places = [&said["granted_qos"], &said["local"]["qos"], &said["publish"]["qos"]];
    places.into_iter().find(|value| !value.is_null()).unwrap_or(&Value::Null)
}

/// What is not as expected; `None` = all is.
fn difference(expected: &Expectation, said: &Value) -> Option<String> {
    let why = said["why"].as_str().unwrap_or_default();
    match (expected.allowed, said["allowed"] == true) {
        (true, false) => return Some(format!("is refused: {why}")),
        (false, true) => return Some(format!("passes: {why}")),
        _ => {}
    }
    expected.also.iter().find_map(|(key, wanted)| {
        let (name, found) = match key {
            Also::Rule => ("rule", &said["rule"]),
            Also::Topic => ("topic", &said["publish"]["topic"]),
            Also::Reason => ("reason", &said["reason"]),
            Also::Qos => ("QoS", qos(said)),
        };
        let found = match found {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => "-".to_owned(),
        };
        (found != *wanted).then(|| format!("{name} is {found}, not {wanted}"))
    })
}

/// Runs the table.
///
/// # Errors
/// [`CommandError::Said`] if something is not as expected.
pub(super) fn run(context: &Context, arguments: &AclTestArguments) -> Result<(), CommandError> {
    let file = arguments.file.display();
    let text = text_of_or_stdin(&arguments.file, FILE_MAX)?;
    let expectations =
        parse(&text).map_err(|(line, what)| CommandError::Failed(format!("{file}:{line}: {what}")))?;
    if expectations.is_empty() {
        return Err(CommandError::Failed(format!("{file} has no expectations")));
    }
    let loaded = context.load()?;
    let judge = Judge::new(&loaded.settings, Instant::now());
    let mut faults = 0;
    for expected in &expectations {
        let Expectation { line, device, question, path, .. } = expected;
        let said = judge.say(expected);
        let mut said = said.map_err(|what| CommandError::Failed(format!("{file}:{line}: {what}")))?;
        loaded.complete_explanation(device, &mut said);
        let difference = difference(expected, &said);
        faults += u64::from(difference.is_some());
        if context.out.json {
            context.out.object(&json!({
                "line": line, "device": device, "method": question.to_string(), "path": path,
                "ok": difference.is_none(), "difference": difference, "explanation": said,
            }))?;
        } else if let Some(difference) = difference {
            context.out.line(format_args!("{file}:{line}: {device} {question} {path} {difference}"))?;
        }
    }
    if !context.out.json {
        let count = plural(expectations.len() as u64, "expectation");
        context.out.line(match faults {
            0 => format!("{count}: all as expected"),
            faults => format!("{count}: {faults} not as expected"),
        })?;
    }
    if faults == 0 { Ok(()) } else { Err(CommandError::Said) }
}

#[cfg(test)]
mod tests;
