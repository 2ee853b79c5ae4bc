//! Explains whether a reading would pass and why, for `tombolo acl explain DEVICE METHOD PATH`.
//!
//! It applies the same rules in the same order as [`Gate::admit`]; tests compare the two.

use std::time::Instant;

use serde::Serialize;

use super::Gate;
use super::matcher::Segments;
use super::policy::{Limits, Role};
use super::settings::{QoS, QueryUse};
use super::stage::{Reason, Refusal};
use crate::message::{Envelope, Method, Path, QueryBuffer};

/// What the gate would do with an empty payload at a path, and why. Its JSON is part of the
/// command's contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The device id from the question.
    pub device: String,
    /// The method from the question.
    pub method: &'static str,
    /// The path from the question, without a leading `/` and without a query.
    pub path: String,
    /// The query from the question, as it would be published.
    pub query: Option<String>,
    /// Whether the rules allow it. The quota is not considered.
    pub allowed: bool,
    /// If refused: the kind of refusal, as in the counters; `bad_path` or `bad_query` if
    /// the path or the query is invalid.
    pub reason: Option<&'static str>,
    /// The reason in one sentence.
    pub why: String,
    /// The device's role.
    pub role: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// All rules that match: first the one that decided, then by specificity.
    pub matched: Vec<MatchedRule>,
    /// How it would be published, if it passes.
    pub publish: Option<Publish>,
    /// Largest payloads of the role, in bytes.
    pub max_payload: Option<MaxPayload>,
    /// What is left of the device's quota now.
    pub quota: Option<QuotaState>,
}

/// A rule whose pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MatchedRule {
    /// The rule's name.
    pub rule: String,
    /// The rule's path pattern.
    pub path: String,
    /// Whether the rule denies.
    pub deny: bool,
    /// `refuse`, if the rule refuses requests with a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'static str>,
}

/// How a reading would be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Publish {
    /// The topic.
    pub topic: String,
    /// The QoS, 0 or 1.
    pub qos: u8,
    /// Whether the retain flag is set.
    pub retain: bool,
    /// The lane, `high` or `normal`.
    pub lane: &'static str,
    /// Seconds after which it expires; `None` = never.
    pub expires: Option<u32>,
    /// `json`, if it is wrapped.
    pub envelope: Option<&'static str>,
}

/// Largest payloads in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MaxPayload {
    /// In one datagram.
    pub datagram: u32,
    /// By Block1.
    pub blockwise: u32,
}

/// What is left of a device's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaState {
    /// Messages that could pass now.
    pub messages_left: u32,
    /// Messages the bucket holds.
    pub messages_burst: u32,
    /// Payload bytes that could pass now.
    pub bytes_left: u64,
    /// Payload bytes the bucket holds.
    pub bytes_burst: u64,
}

impl From<Limits> for MaxPayload {
    fn from(limits: Limits) -> MaxPayload {
        MaxPayload { datagram: limits.datagram, blockwise: limits.blockwise }
    }
}

impl Gate {
    /// What the gate would do with `method` and an empty payload at `path` from `device`, and why.
    /// `path` may have a query behind a `?`, as in a URI; a `?` of the path itself is `%3F`.
    pub fn explain(&self, now: Instant, device: &str, method: Method, path: &str) -> Explanation {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let path = path.replace("%3F", "?");
        let mut explanation = Explanation {
            device: device.to_owned(),
            method: method.as_str(),
            path: path.clone(),
            query: query.map(str::to_owned),
            allowed: false,
            reason: None,
            why: String::new(),
            role: None,
            rule: None,
            matched: Vec::new(),
            publish: None,
            max_payload: None,
            quota: None,
        };
        let entry = self.devices.by_id(device).and_then(|index| self.devices.entry(index));
        let role = entry.and_then(|entry| self.plan.roles.get(entry.role as usize));
        let (Some(entry), Some(role)) = (entry, role) else {
            return refused(explanation, &Refusal::UnknownDevice);
        };
        explanation.role = Some(role.name.to_string());
        explanation.max_payload = Some(role.limits.into());
        let (messages_left, bytes_left) = entry.state.bucket.left(&role.rate, now);
        explanation.quota = Some(QuotaState {
            messages_left,
            messages_burst: role.quota.burst,
            bytes_left,
            bytes_burst: role.quota.bytes,
        });
        let path = match Path::parse(&path) {
            Ok(path) => path,
            Err(error) => {
                explanation.reason = Some("bad_path");
                explanation.why = error.to_string();
                return explanation;
            }
        };
        let mut buffer = QueryBuffer::default();
        let query = match query.map(|text| buffer.parse(path, text)).transpose() {
            Ok(query) => query,
            Err(error) => {
                explanation.reason = Some("bad_query");
                explanation.why = error.to_string();
                return explanation;
            }
        };
        explanation.query = query.map(|query| query.as_str().to_owned());
        explanation.matched = matched(role, path);
        let segments = Segments::new(path);
        let (rule, action) = match role.decide(path, &segments, method, query.is_some()) {
            Ok(decided) => decided,
            Err(refusal) => {
                explanation.rule = match &refusal {
                    Refusal::Denied { .. } | Refusal::NotAllowed | Refusal::QueryUnwanted { .. } => {
                        explanation.matched.first().map(|matched| matched.rule.clone())
                    }
                    _ => None,
                };
                return refused(explanation, &refusal);
            }
        };
        explanation.rule = Some(rule.name.to_string());
        let mut topic = String::new();
        if let Err(refusal) = action.mapping.expand(&self.plan.spaces, device, &segments, query, &mut topic) {
            return refused(explanation, &refusal);
        }
        let envelope = if method == Method::Delete { Envelope::None } else { action.envelope };
        explanation.allowed = true;
        explanation.why = match explanation.matched.len() {
            0 | 1 => format!("rule {} is the only one that matches", rule.name),
            _ => format!(
                "rule {} is the most specific rule that matches, and no rule that matches denies",
                rule.name
            ),
        };
        explanation.publish = Some(Publish {
            topic,
            qos: match action.qos {
                QoS::AtMostOnce => 0,
                QoS::AtLeastOnce => 1,
            },
            retain: action.retain,
            lane: action.lane.as_str(),
            expires: action.expires_s,
            envelope: match envelope {
                Envelope::None => None,
                Envelope::Json => Some("json"),
            },
        });
        explanation
    }
}

fn refused(mut explanation: Explanation, refusal: &Refusal) -> Explanation {
    explanation.reason = Some(refusal.reason().as_str());
    explanation.why = match refusal.reason() {
        Reason::NoRule => match &explanation.role {
            Some(role) => {
                format!("no rule of role {role} matches, and a path that no rule allows is refused")
            }
            None => refusal.to_string(),
        },
        _ => refusal.to_string(),
    };
    explanation
}

/// All rules that match: first those that deny, then the others, each by specificity.
fn matched(role: &Role, path: Path<'_>) -> Vec<MatchedRule> {
    if path.is_reserved() {
        return Vec::new();
    }
    let mut rules: Vec<_> = role.rules.iter().filter(|rule| rule.pattern.matches(path)).collect();
    rules.sort_by(|a, b| {
        a.action.is_some().cmp(&b.action.is_some()).then_with(|| a.pattern.specificity(&b.pattern))
    });
    let described = rules.into_iter().map(|rule| MatchedRule {
        rule: rule.name.to_string(),
        path: rule.pattern.to_string(),
        deny: rule.action.is_none(),
        query: match &rule.action {
            Some(action) if action.query == QueryUse::Refuse => Some("refuse"),
            _ => None,
        },
    });
    described.collect()
}
