//! What a role allows: its rules, compiled once and shared by its devices.
//!
//! A deny rule that matches has precedence; otherwise the most specific rule decides; without a
//! match the reading is refused. A rule whose topic needs a tag does not match for a device without
//! it. The checks run in this order, and the first that fails is the
//! reason: reserved path, deny, no rule, method, query, content format, size, quota.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::filter::Filter;
use super::mapping::Mapping;
use super::matcher::{Builder, Matcher, Segments};
use super::pattern::Pattern;
use super::quota::{Bucket, Rate};
use super::settings::{self, OnBehalfRule, QoS, QueryUse, Quota};
use super::stage::{Authorized, Identified, Received, Refusal};
use super::tag::Tags;
use crate::message::{ContentFormat, Envelope, Lane, Method, Name, Path};

/// Default largest payload of a reading in one datagram, in bytes.
pub const DATAGRAM_PAYLOAD_DEFAULT: u32 = 1_024;
/// Default largest payload of a reading by Block1, and the largest any role may allow, in bytes.
pub const PAYLOAD_MAX: u32 = 65_536;

/// A compiled role.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: Name,
    pub(super) quota: Quota,
    pub(super) rate: Rate,
    pub(super) limits: Limits,
    pub(super) offline_after: Duration,
    pub(super) max_sessions: u32,
    pub(super) max_handshakes: u32,
    pub(super) rules: Box<[Rule]>,
    /// The same as long as no rule, and no filter of one, changes: what was published before is
    /// measured against no longer than that.
    pub(super) filtering: u64,
    allow: Matcher,
    deny: Matcher,
    pub(super) on_behalf: Box<[OnBehalfRule]>,
}

/// Largest payloads in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) datagram: u32,
    pub(super) blockwise: u32,
}

impl Limits {
    /// A limit never exceeds the byte bucket: a larger payload would always be refused with 4.29
    /// and a Max-Age, although it could never pass.
    pub(super) fn new(max_payload: Option<u32>, quota: &Quota) -> Limits {
        let bucket = u32::try_from(quota.bytes).unwrap_or(u32::MAX).min(PAYLOAD_MAX);
        Limits {
            datagram: max_payload.unwrap_or(DATAGRAM_PAYLOAD_DEFAULT).min(bucket),
            blockwise: max_payload.unwrap_or(PAYLOAD_MAX).min(bucket),
        }
    }

    pub(super) fn of(&self, blockwise: bool) -> u32 {
        if blockwise { self.blockwise } else { self.datagram }
    }
}

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Name,
    /// The role that it is from, if that is not the one that has it.
    pub(super) from: Option<Name>,
    pub(super) pattern: Pattern,
    /// `None` = deny.
    pub(super) action: Option<Action>,
    /// Readings that it has decided since it was compiled.
    pub(super) hits: AtomicU64,
}

impl Rule {
    /// The first tag that its topic needs and a device does not have.
    pub(super) fn lacks(&self, tags: &Tags) -> Option<&Name> {
        self.action.as_ref()?.mapping.lacks(tags)
    }

    /// Its filter, if it has one.
    pub(super) fn filter(&self) -> Option<&Filter> {
        self.action.as_ref()?.filter.as_ref()
    }
}

/// How an allowing rule publishes a reading.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) mapping: Mapping,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) lane: Lane,
    pub(super) expires_s: Option<u32>,
    pub(super) envelope: Envelope,
    pub(super) delete: bool,
    pub(super) query: QueryUse,
    /// Largest payload in bytes, where that is less than the role's.
    pub(super) max_payload: u32,
    /// The content formats that it takes; empty = any, and none.
    pub(super) content_formats: Box<[Option<ContentFormat>]>,
    pub(super) filter: Option<Filter>,
}

impl Action {
    /// The largest payload in bytes of a reading that came in one datagram, or in blocks.
    pub(super) fn limit(&self, role: &Role, blockwise: bool) -> u32 {
        role.limits.of(blockwise).min(self.max_payload)
    }

    /// Whether it takes a reading of this format. A DELETE has no payload, and no format.
    pub(super) fn takes(&self, method: Method, format: Option<ContentFormat>) -> bool {
        self.content_formats.is_empty() || method == Method::Delete || self.content_formats.contains(&format)
    }
}

/// What of a reading its rules are asked by.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) path: Path<'a>,
    pub(super) method: Method,
    pub(super) has_query: bool,
    pub(super) content_format: Option<ContentFormat>,
    /// Of the device.
    pub(super) tags: &'a Tags,
}

impl<'a> Asked<'a> {
    pub(super) fn of(received: &Received<'a>, tags: &'a Tags) -> Asked<'a> {
        let Received { path, method, content_format, .. } = *received;
        Asked { path, method, has_query: received.query.is_some(), content_format, tags }
    }
}

/// Two allowing rules of a role with the same pattern, in the order of their definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tie {
    pub(super) first: u32,
    pub(super) second: u32,
}

/// Builds the allow and deny matchers of a role and finds ties. Each of `rules` is a pattern and
/// whether it denies.
pub(super) fn matchers<'a>(rules: impl Iterator<Item = (&'a Pattern, bool)>) -> (Matcher, Matcher, Vec<Tie>) {
    let (mut allow, mut deny) = (Builder::default(), Builder::default());
    let mut ties = Vec::new();
    for ((pattern, denies), number) in rules.zip(0_u32..) {
        if denies {
            // Two deny rules with the same pattern are no conflict.
            deny.insert(pattern, number);
        } else if let Some(first) = allow.insert(pattern, number) {
            ties.push(Tie { first, second: number });
        }
    }
    (allow.build(), deny.build(), ties)
}

impl Role {
    /// `allow` and `deny` are the matchers of `rules`.
    pub(super) fn new(role: &settings::Role, rules: Vec<Rule>, (allow, deny): (Matcher, Matcher)) -> Role {
        let mut hasher = DefaultHasher::new();
        role.name.hash(&mut hasher);
        for rule in &rules {
            (&rule.name, rule.pattern.as_str(), rule.action.is_some()).hash(&mut hasher);
            rule.filter().map(Filter::key).hash(&mut hasher);
        }
        Role {
            filtering: hasher.finish(),
            name: role.name.clone(),
            quota: role.quota,
            rate: Rate::new(&role.quota),
            limits: Limits::new(role.max_payload, &role.quota),
            offline_after: role.offline_after,
            max_sessions: role.max_sessions,
            max_handshakes: role.max_handshakes,
            rules: rules.into(),
            allow,
            deny,
            on_behalf: role.on_behalf.clone().into(),
        }
    }

    /// The rule that allows a reading; its size and the quota are not looked at.
    pub(super) fn decide(
        &self,
        asked: &Asked<'_>,
        segments: &Segments<'_>,
    ) -> Result<(&Rule, &Action), Refusal> {
        if asked.path.is_reserved() {
            return Err(Refusal::Reserved);
        }
        if let Some(rule) = self.rule(self.deny.find(segments)) {
            return Err(Refusal::Denied { rule: rule.name.clone() });
        }
        let rule = self.allowing(segments, asked.tags).ok_or(Refusal::NoRule)?;
        let action = rule.action.as_ref().ok_or(Refusal::NoRule)?;
        if asked.method == Method::Delete && !(action.delete && action.retain) {
            return Err(Refusal::NotAllowed);
        }
        if asked.has_query && action.query == QueryUse::Refuse {
            return Err(Refusal::QueryUnwanted { rule: rule.name.clone() });
        }
        if !action.takes(asked.method, asked.content_format) {
            return Err(Refusal::ContentFormat { rule: rule.name.clone(), format: asked.content_format });
        }
        Ok((rule, action))
    }

    /// The rule that decides about a path, for a person to read: the one that denies it, else the
    /// one that allows it.
    pub(super) fn deciding(&self, path: Path<'_>, tags: &Tags) -> Option<&Name> {
        if path.is_reserved() {
            return None;
        }
        let segments = Segments::new(path);
        let deciding = self.rule(self.deny.find(&segments)).or_else(|| self.allowing(&segments, tags));
        deciding.map(|rule| &rule.name)
    }

    /// The rule that allows a path where none denies it: the most specific one whose topic needs no
    /// tag that the device does not have.
    pub(super) fn allowing(&self, segments: &Segments<'_>, tags: &Tags) -> Option<&Rule> {
        let applies = |number: u32| self.rule(Some(number)).is_some_and(|rule| rule.lacks(tags).is_none());
        self.rule(self.allow.find_applicable(segments, applies))
    }

    fn rule(&self, number: Option<u32>) -> Option<&Rule> {
        self.rules.get(number? as usize)
    }
}

/// The second stage: a rule allows the reading, and with `bytes` of payload it is within the size
/// limit and the quota. No token is taken yet; a test does not count as a use of its rule. `bytes`
/// is more than the payload has if its first block says so.
pub(super) fn authorize<'a>(
    role: &'a Role,
    bucket: &mut Bucket,
    now: Instant,
    identified: Identified<'a>,
    tags: &Tags,
    bytes: usize,
    is_test: bool,
) -> Result<Authorized<'a>, Refusal> {
    let received = identified.received();
    let segments = Segments::new(received.path);
    let (rule, action) = role.decide(&Asked::of(received, tags), &segments).inspect_err(|refusal| {
        if matches!(refusal, Refusal::Denied { .. })
            && !is_test
            && let Some(rule) = role.rule(role.deny.find(&segments))
        {
            rule.hits.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    if !is_test {
        rule.hits.fetch_add(1, Ordering::Relaxed);
    }
    if received.method == Method::Delete && !received.payload.is_empty() {
        return Err(Refusal::NotAllowed);
    }
    let limit = action.limit(role, received.blockwise);
    if bytes > limit as usize {
        return Err(Refusal::TooLarge { limit });
    }
    match bucket.check(&role.rate, now, bytes) {
        Ok(()) => Ok(Authorized::new(identified, rule, segments)),
        Err(retry_after_s) => Err(Refusal::OverQuota { retry_after_s }),
    }
}
