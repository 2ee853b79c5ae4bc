//! Explains whether a reading would pass and why, for `tombolo acl explain DEVICE METHOD PATH`.
//!
//! It applies the same rules in the same order as [`Gate::admit`]; tests compare the two.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Gate;
use super::filter::{AnyFormat, Sample};
use super::mapping::{NO_FORMAT, Places};
use super::matcher::Segments;
use super::on_behalf::Forwarded;
use super::policy::{Asked, Limits, Role, Rule};
use super::settings::OnBehalfRule;
use super::settings::{QoS, QueryUse, ReadingFilter};
use super::stage::{OnBehalfFault, Reason, Refusal};
use super::tag::Tags;
use crate::message::{ContentFormat, Envelope, Method, Name, Path, Query, QueryBuffer};

/// What the gate would do with an empty payload at a path, and why. Its JSON is part of the
/// command's contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The device id from the question.
    pub device: String,
    /// The method from the question.
    pub method: &'static str,
    /// The path from the question, without a leading `/` and without a query.
    pub path: String,
    /// The query from the question, as it would be published.
    pub query: Option<String>,
    /// The content format that is supposed, by its number; `None`: the reading has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_format: Option<u16>,
    /// Whether the rules allow it. The quota is not considered.
    pub allowed: bool,
    /// If refused: the kind of refusal, as in the counters; `bad_path` or `bad_query` if
    /// the path or the query is invalid.
    pub reason: Option<&'static str>,
    /// The reason in one sentence.
    pub why: String,
    /// Of a path that begins with `~`: the device behind this one that the reading is of. What
    /// follows is about that device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<OnBehalf>,
    /// The device's role.
    pub role: Option<String>,
    /// The device's tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The role that this rule is from, where the device's role includes that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_from: Option<String>,
    /// All rules whose path matches: first the one that decided, then by specificity, at last those
    /// whose topic needs a tag that the device does not have.
    pub matched: Vec<MatchedRule>,
    /// If no rule matches: the one that comes nearest, and why it does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearestRule>,
    /// How it would be published, if it passes.
    pub publish: Option<Publish>,
    /// Of a payload that was given: why the rule's filter would hold it back now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
    /// Largest payloads that the role and the rule allow, in bytes.
    pub max_payload: Option<MaxPayload>,
    /// What is left of the device's quota now.
    pub quota: Option<QuotaState>,
}

/// For whom a device speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnBehalf {
    /// The child.
    pub device: String,
    /// The path within it.
    pub path: String,
    /// The role of the sender.
    pub role: String,
    /// The on-behalf rule of that role which lets it speak.
    pub rule: String,
    /// The role that this rule is from, where the sender's role includes that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The rule's path pattern, within the child.
    pub rule_path: String,
}

/// A rule whose pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MatchedRule {
    /// The rule's name.
    pub rule: String,
    /// The role that it is from, where the device's role includes that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The rule's path pattern.
    pub path: String,
    /// Whether the rule denies.
    pub deny: bool,
    /// `refuse`, if the rule refuses requests with a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'static str>,
    /// The tag that its topic needs and the device does not have: it does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks_tag: Option<String>,
    /// The content formats that it takes, if not any: numbers, and `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_formats: Option<Vec<String>>,
}

/// The rule whose path begins as the one in the question does, farthest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearestRule {
    /// The rule's name.
    pub rule: String,
    /// The role that it is from, where the device's role includes that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The rule's path pattern.
    pub path: String,
    /// What differs.
    pub why: String,
}

/// What is supposed about the reading that is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supposed<'p> {
    /// Its content format; `Some(None)`: it has none. `None`: one that its rule takes.
    pub content_format: Option<Option<ContentFormat>>,
    /// Bytes of its payload, which comes in blocks if it needs to.
    pub bytes: usize,
    /// The payload itself, of so many bytes: whether a filter would hold it back now. Without a
    /// content format it is taken to have the one of the reading before.
    pub payload: Option<&'p [u8]>,
    /// It is an MQTT publish with RETAIN.
    pub retain: bool,
}

impl<'p> Supposed<'p> {
    /// Whether its payload is known to be empty.
    pub fn is_empty(&self) -> bool {
        self.payload.is_some_and(<[u8]>::is_empty)
    }

    /// Whether it is an empty retained publish, which deletes what is retained (MQTT 5.0
    /// §3.3.1.3).
    pub fn deletes(&self) -> bool {
        self.retain && self.is_empty()
    }

    /// With this payload.
    pub fn with_payload(self, payload: &'p [u8]) -> Supposed<'p> {
        Supposed { bytes: payload.len(), payload: Some(payload), ..self }
    }
}

/// How a reading would be published.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Which readings are acknowledged and not published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterView>,
}

/// The filter of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterView {
    /// What these do not hold for is held back: each condition in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<String>,
    /// What equals the reading before is held back.
    pub on_change: bool,
    /// A number that differs by so much or less is held back.
    pub dead_band: Option<f64>,
    /// Where the number stands in JSON or CBOR; `None`: it is the payload.
    pub dead_band_field: Option<String>,
    /// What comes sooner, in milliseconds, is held back.
    pub min_interval_ms: Option<u64>,
}

impl From<&ReadingFilter> for FilterView {
    fn from(settings: &ReadingFilter) -> FilterView {
        FilterView {
            when: settings.when.texts(),
            on_change: settings.on_change,
            dead_band: settings.dead_band,
            dead_band_field: settings.dead_band_field.as_ref().map(|field| field.as_str().to_owned()),
            // At most a day.
            min_interval_ms: settings.min_interval.map(|least| least.as_millis() as u64),
        }
    }
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
        self.explain_supposed(now, device, method, path, Supposed::default())
    }

    /// As [`Gate::explain`], with what is supposed about the reading.
    pub fn explain_supposed(
        &self,
        now: Instant,
        device: &str,
        method: Method,
        path: &str,
        supposed: Supposed<'_>,
    ) -> Explanation {
        let mut explanation = self.explain_reading(now, device, method, path, supposed);
        let deciding = explanation.matched.iter().find(|rule| Some(&rule.rule) == explanation.rule.as_ref());
        if let Some(deciding) = deciding {
            explanation.rule_from = deciding.from.clone();
        }
        if let Some(OnBehalf { device: child, role, rule, .. }) = &explanation.on_behalf {
            explanation.why = format!(
                "on-behalf rule {rule} of role {role} lets {device} speak for {child}; {}",
                explanation.why
            );
        }
        explanation
    }

    /// The on-behalf rule of a role that comes nearest to letting its device speak for a child.
    fn nearest_on_behalf(&self, role: &Role, path: Path<'_>) -> Option<NearestRule> {
        let (child, within) = path.of_child()?;
        let (within, (_, of_child)) = (within?, self.entry_and_role(self.devices.by_id(child)?)?);
        let allowing = || role.on_behalf.iter().filter(|rule| !rule.deny);
        let name = |rule: &OnBehalfRule| format!("{ON_BEHALF}.{}", rule.name);
        let from = |rule: &OnBehalfRule| rule.from.as_ref().map(Name::to_string);
        if let Some(rule) = allowing().find(|rule| rule.path.matches(within)) {
            let roles: Vec<&str> = rule.roles.iter().map(Name::as_str).collect();
            return Some(NearestRule {
                rule: name(rule),
                from: from(rule),
                path: rule.path.to_string(),
                why: format!("it is for children of {}, and {child} is {}", roles.join(", "), of_child.name),
            });
        }
        let candidates = allowing().map(|rule| (name(rule), from(rule), rule.path.to_string()));
        nearest(candidates, within.as_str())
    }

    fn explain_reading(
        &self,
        now: Instant,
        device: &str,
        method: Method,
        path: &str,
        supposed: Supposed<'_>,
    ) -> Explanation {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let path = path.replace("%3F", "?");
        let mut explanation = Explanation {
            device: device.to_owned(),
            method: method.as_str(),
            path: path.clone(),
            query: query.map(str::to_owned),
            content_format: None,
            allowed: false,
            reason: None,
            why: String::new(),
            on_behalf: None,
            role: None,
            tags: BTreeMap::new(),
            rule: None,
            rule_from: None,
            matched: Vec::new(),
            nearest: None,
            publish: None,
            held_back: None,
            max_payload: None,
            quota: None,
        };
        let mut index = self.devices.by_id(device);
        let sender = index.and_then(|index| self.entry_and_role(index));
        let mut within = path.clone();
        if let (Some(from), Some((_, role))) = (index, sender)
            && let Ok(path) = Path::parse(&path)
            && path.of_child().is_some()
            && !role.on_behalf.is_empty()
        {
            match self.forwarded(from, path) {
                Ok(Forwarded { child, path, rule }) => {
                    explanation.on_behalf = Some(OnBehalf {
                        device: self.id(child).map(Name::to_string).unwrap_or_default(),
                        path: path.as_str().to_owned(),
                        role: role.name.to_string(),
                        rule: rule.name.to_string(),
                        from: rule.from.as_ref().map(Name::to_string),
                        rule_path: rule.path.to_string(),
                    });
                    (index, within) = (Some(child), path.as_str().to_owned());
                }
                Err(refusal) => {
                    explanation.role = Some(role.name.to_string());
                    let fault = match &refusal {
                        Refusal::OnBehalf(fault) => Some(fault),
                        _ => None,
                    };
                    if let Some(OnBehalfFault::Denied { rule }) = fault {
                        let denies = role.on_behalf.iter().find(|known| known.name == *rule);
                        let from = denies.and_then(|rule| rule.from.as_ref());
                        explanation.rule_from = from.map(Name::to_string);
                        explanation.rule = Some(format!("{ON_BEHALF}.{rule}"));
                        explanation.matched.extend(denies.map(|denies| MatchedRule {
                            rule: format!("{ON_BEHALF}.{rule}"),
                            from: from.map(Name::to_string),
                            path: denies.path.to_string(),
                            deny: true,
                            query: None,
                            lacks_tag: None,
                            content_formats: None,
                        }));
                    }
                    if fault == Some(&OnBehalfFault::NoRule) {
                        explanation.nearest = self.nearest_on_behalf(role, path);
                    }
                    return refused(explanation, &refusal);
                }
            }
        }
        let path = within;
        let Some((entry, role)) = index.and_then(|index| self.entry_and_role(index)) else {
            return refused(explanation, &Refusal::UnknownDevice);
        };
        let device = entry.described.id.as_str();
        explanation.role = Some(role.name.to_string());
        let tags = entry.described.tags.iter().map(|(name, value)| (name.to_string(), value.to_owned()));
        explanation.tags = tags.collect();
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
        explanation.matched = matched(role, path, &entry.described.tags);
        let segments = Segments::new(path);
        let content_format = supposed
            .content_format
            .unwrap_or_else(|| formats(role, &segments, &entry.described.tags).first().copied()?);
        explanation.content_format = content_format.map(|format| format.0);
        let asked =
            Asked { path, method, has_query: query.is_some(), content_format, tags: &entry.described.tags };
        let (rule, action) = match role.decide(&asked, &segments) {
            Ok(decided) => decided,
            Err(refusal) => {
                explanation.rule = match &refusal {
                    Refusal::Denied { .. }
                    | Refusal::NotAllowed
                    | Refusal::QueryUnwanted { .. }
                    | Refusal::ContentFormat { .. } => {
                        explanation.matched.first().map(|matched| matched.rule.clone())
                    }
                    _ => None,
                };
                if refusal == Refusal::NoRule && explanation.matched.is_empty() {
                    let allowing = role.rules.iter().filter(|rule| rule.action.is_some());
                    let candidates = allowing.map(|rule| {
                        let from = rule.from.as_ref().map(Name::to_string);
                        (rule.name.to_string(), from, rule.pattern.to_string())
                    });
                    explanation.nearest = nearest(candidates, path.as_str());
                }
                return refused(explanation, &refusal);
            }
        };
        explanation.rule = Some(rule.name.to_string());
        let limit = |blockwise| action.limit(role, blockwise);
        explanation.max_payload = Some(MaxPayload { datagram: limit(false), blockwise: limit(true) });
        if method == Method::Delete && supposed.bytes > 0 {
            let mut explanation = refused(explanation, &Refusal::NotAllowed);
            explanation.why = "a DELETE has no payload; send it without one".to_owned();
            return explanation;
        }
        if supposed.bytes > limit(true) as usize {
            return refused(explanation, &Refusal::TooLarge { limit: limit(true) });
        }
        let mut topic = String::new();
        let places =
            Places { device, segments: &segments, query, content_format, tags: &entry.described.tags };
        if let Err(refusal) = action.mapping.expand(&self.plan.spaces, &places, &mut topic) {
            return refused(explanation, &refusal);
        }
        let envelope = if method == Method::Delete { Envelope::None } else { action.envelope };
        explanation.allowed = true;
        if let (Some(payload), Some(filter)) = (supposed.payload, &action.filter)
            && method != Method::Delete
        {
            let sample = Sample { place: (path.as_str(), query.map(Query::as_str)), content_format, payload };
            let format = supposed.content_format.map_or(AnyFormat::Yes, |_| AnyFormat::No);
            let unmet = filter.unmet(&sample).map(|unmet| unmet.to_string());
            explanation.held_back = unmet.or_else(|| {
                let remembered = entry.state.remembered.as_ref()?;
                remembered.judge(now, filter, &sample, format).map(|why| why.to_string())
            });
        }
        explanation.why = match explanation.matched.iter().filter(|rule| rule.lacks_tag.is_none()).count() {
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
            // What would delete a retained message goes out without RETAIN where the rule does not
            // allow `delete`.
            retain: action.retain && (action.delete || !(supposed.is_empty() && envelope == Envelope::None)),
            lane: action.lane.as_str(),
            expires: action.expires_s,
            envelope: match envelope {
                Envelope::None => None,
                Envelope::Json => Some("json"),
            },
            filter: action.filter.as_ref().map(|filter| filter.settings().into()),
        });
        explanation
    }
}

fn refused(mut explanation: Explanation, refusal: &Refusal) -> Explanation {
    explanation.reason = Some(refusal.reason().as_str());
    explanation.why = match refusal.reason() {
        Reason::NoRule => match (&explanation.role, explanation.matched.first()) {
            // The others lack a tag, too.
            (Some(role), Some(MatchedRule { rule, lacks_tag: Some(tag), .. })) => format!(
                "rule {rule} of role {role} needs the tag {tag} for its topic, and device {} does not have it; no other rule matches",
                explanation.on_behalf.as_ref().map_or(&explanation.device, |child| &child.device)
            ),
            (Some(role), _) => {
                format!("no rule of role {role} matches, and a path that no rule allows is refused")
            }
            (None, _) => refusal.to_string(),
        },
        Reason::Reserved if explanation.path.starts_with('~') => match &explanation.role {
            Some(role) => format!(
                "{refusal}: role {role} has no on-behalf rule, so that its devices may not speak for others"
            ),
            None => refusal.to_string(),
        },
        _ => refusal.to_string(),
    };
    explanation
}

/// What stands before the name of an on-behalf rule, where rules of other kinds could be meant.
const ON_BEHALF: &str = "on-behalf";

/// A rule that may come nearest: its name, the role that it is from, its path or filter.
pub type Candidate = (String, Option<String>, String);

/// The rule that has most levels in common with a path or filter that none matches; of several the
/// first.
pub fn nearest(candidates: impl IntoIterator<Item = Candidate>, path: &str) -> Option<NearestRule> {
    let common = |of: &str| levels_in_common(of, path);
    let mut found: Option<(usize, Candidate)> = None;
    for candidate in candidates {
        let common = common(&candidate.2);
        if found.as_ref().is_none_or(|(most, _)| common > *most) {
            found = Some((common, candidate));
        }
    }
    let (common, (rule, from, pattern)) = found?;
    let (wanted, level, number) = (pattern.split('/').nth(common), path.split('/').nth(common), common + 1);
    let why = match (wanted, level) {
        (Some(wanted), Some(level)) => format!("level {number} is {level:?}, not {wanted:?}"),
        (Some(wanted), None) => format!("there is no level {number}, which is {wanted:?}"),
        (None, _) => format!("there are more than {common} levels"),
    };
    Some(NearestRule { rule, from, path: pattern, why })
}

/// How many levels two paths or filters have in common, from the first one on.
pub fn levels_in_common(one: &str, other: &str) -> usize {
    let is_common = |(one, other): &(&str, &str)| one == other || [*one, *other].contains(&"+");
    one.split('/').zip(other.split('/')).take_while(is_common).count()
}

/// A content format as its number, or `none`.
pub fn format_text(format: &Option<ContentFormat>) -> String {
    match format {
        Some(ContentFormat(number)) => number.to_string(),
        None => NO_FORMAT.to_owned(),
    }
}

/// The content formats that the rule takes which allows a path; none: it takes any.
fn formats<'r>(role: &'r Role, segments: &Segments<'_>, tags: &Tags) -> &'r [Option<ContentFormat>] {
    let action = role.allowing(segments, tags).and_then(|rule| rule.action.as_ref());
    action.map_or(&[], |action| &action.content_formats)
}

/// All rules whose path matches: first those that deny, then the others, each by specificity, at
/// last those that need a tag which there is not.
fn matched(role: &Role, path: Path<'_>, tags: &Tags) -> Vec<MatchedRule> {
    if path.is_reserved() {
        return Vec::new();
    }
    let mut rules: Vec<_> = role.rules.iter().filter(|rule| rule.pattern.matches(path)).collect();
    rules.sort_by(|a, b| {
        let rank = |rule: &Rule| (rule.lacks(tags).is_some(), rule.action.is_some());
        rank(a).cmp(&rank(b)).then_with(|| a.pattern.specificity(&b.pattern))
    });
    let described = rules.into_iter().map(|rule| MatchedRule {
        rule: rule.name.to_string(),
        from: rule.from.as_ref().map(Name::to_string),
        path: rule.pattern.to_string(),
        deny: rule.action.is_none(),
        lacks_tag: rule.lacks(tags).map(Name::to_string),
        query: match &rule.action {
            Some(action) if action.query == QueryUse::Refuse => Some("refuse"),
            _ => None,
        },
        content_formats: rule
            .action
            .as_ref()
            .filter(|action| !action.content_formats.is_empty())
            .map(|action| action.content_formats.iter().map(format_text).collect()),
    });
    described.collect()
}
