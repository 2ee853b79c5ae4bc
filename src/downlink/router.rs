//! From the topic of a message to the devices it is for: by the downlink rules of their roles, or
//! not at all.
//!
//! | the message | goes to |
//! |---|---|
//! | on a topic that a rule with `{device}` matches | that device, if its role has the rule |
//! | on a topic that a rule without `{device}` matches | every device of the role |
//! | on `[topics] request` | the device, as if it had been on `[topics] command`; its reply has the id |
//!
//! A deny rule of the device's role that matches has precedence; of several others the most
//! specific one decides, of equal ones the first by name.

use std::fmt;

use super::filter::{Captures, Filter};
use super::settings::Settings;
use crate::gate::{Deliver, DownlinkRule, MailboxLimits};
use crate::message::{Name, Path, PathError, RESERVED_DEVICE};

/// Where devices are looked up.
pub trait Directory {
    /// The id and the role of a device.
    fn device(&self, id: &str) -> Option<(Name, Name)>;

    /// All devices of a role that take copies.
    fn devices_of(&self, role: &Name) -> Vec<Name>;

    /// Whether the device of this id is among those of its role.
    fn takes_copies(&self, id: &str) -> bool;
}

/// One device that a message is for.
#[derive(Clone, Debug)]
pub struct Target<'r> {
    /// Its id.
    pub device: Name,
    /// The path at the device.
    pub path: String,
    /// The rule that allows it.
    pub rule: &'r DownlinkRule,
    /// The limits of the device's mailbox.
    pub limits: &'r MailboxLimits,
}

/// Why a message reaches a device, or all, not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no device of this id.
    UnknownDevice,
    /// No rule of the device's role matches the topic.
    NoRule,
    /// A rule denies it.
    Denied(Name),
    /// The rule makes no valid path of the topic.
    Path(PathError),
    /// The rule matches, and no device has its role.
    NoDevice,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::UnknownDevice => f.write_str("the gateway has no device of this id"),
            Refusal::NoRule => f.write_str("no downlink rule of the device's role matches the topic"),
            Refusal::Denied(rule) => write!(f, "the downlink rule {rule} denies the topic"),
            Refusal::Path(error) => write!(f, "the downlink rule makes no path of the topic: {error}"),
            Refusal::NoDevice => f.write_str("no device has the role of the downlink rule"),
        }
    }
}

/// What a message is.
#[derive(Clone, Debug)]
pub enum Routed<'r> {
    /// Nothing of commands: no rule could ever match its topic.
    Nothing,
    /// A command, which goes to these devices; not empty.
    To(Vec<Target<'r>>),
    /// A command that goes nowhere.
    Refused {
        /// The device it names, if it names one.
        device: Option<String>,
        /// The path it names; empty where none is known.
        path: String,
        /// Why.
        refusal: Refusal,
    },
}

#[derive(Debug)]
struct CompiledRule {
    filter: Filter,
    rule: DownlinkRule,
}

#[derive(Debug)]
struct CompiledRole {
    name: Name,
    rules: Vec<CompiledRule>,
    limits: MailboxLimits,
}

impl CompiledRole {
    /// The rules that match, and what the topic has in their places.
    fn matching<'r, 't>(&'r self, topic: &'t str) -> Vec<(&'r CompiledRule, Captures<'t>)> {
        self.rules.iter().filter_map(|rule| Some((rule, rule.filter.captures(topic)?))).collect()
    }
}

/// The compiled rules.
#[derive(Debug, Default)]
pub struct Router {
    roles: Vec<CompiledRole>,
    request: Option<Filter>,
    command: Option<String>,
    command_filter: Option<Filter>,
    reply: Option<String>,
}

/// A message on the topic of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTopic {
    /// The topic by which the rules are asked.
    pub topic: String,
    /// Where its reply goes, if replies are not switched off.
    pub reply: Option<String>,
}

impl Router {
    /// Compiles.
    pub fn new(settings: &Settings) -> Router {
        let filled =
            |text: &str| text.replace("{prefix}", &settings.prefix).replace("{gateway}", &settings.gateway);
        let compiled = |rule: &DownlinkRule| CompiledRule {
            filter: Filter::parse(&filled(&rule.topic)),
            rule: rule.clone(),
        };
        let roles = settings.roles.iter().map(|role| CompiledRole {
            name: role.name.clone(),
            rules: role.rules.iter().map(compiled).collect(),
            limits: role.mailbox.clone(),
        });
        Router {
            roles: roles.collect(),
            request: settings.request.as_deref().map(Filter::parse),
            command: settings.command.clone(),
            command_filter: settings.command.as_deref().map(Filter::parse),
            reply: settings.reply.clone(),
        }
    }

    /// The limits of a role's devices.
    pub fn limits(&self, role: &Name) -> Option<&MailboxLimits> {
        self.roles.iter().find(|known| known.name == *role).map(|role| &role.limits)
    }

    /// What a topic of requests stands for; `None`: it is none.
    pub fn request(&self, topic: &str) -> Option<RequestTopic> {
        let captures = self.request.as_ref()?.captures(topic)?;
        let (device, id, path) = (captures.device?, captures.id?, captures.rest?);
        let topic = Settings::filled(self.command.as_deref()?, device, "", path);
        let reply =
            self.reply.as_deref().map(|reply| Settings::filled(reply, device, "", &format!("{id}/{path}")));
        Some(RequestTopic { topic, reply })
    }

    /// The topic by which the rules are asked about a command of the operator.
    pub fn command_topic(&self, device: &str, path: &str) -> Option<String> {
        Some(Settings::filled(self.command.as_deref()?, device, "", path))
    }

    /// Where the reply to a command goes that names no topic for it.
    pub fn reply_topic(&self, device: &str, path: &str) -> Option<String> {
        Some(Settings::filled(self.reply.as_deref()?, device, "", path))
    }

    /// Whether a rule of this role could bring a message to `path` that a device may fetch.
    pub fn offers(&self, role: &Name, path: &str) -> bool {
        let Some(role) = self.roles.iter().find(|known| known.name == *role) else { return false };
        let mut rules = role.rules.iter().map(|compiled| &compiled.rule);
        rules.any(|rule| !rule.deny && rule.deliver != Deliver::Request && could_be(&rule.path, path))
    }

    /// Whether a message on `topic` would go to this device at `path`. No other device is asked
    /// about, so all copies of a message are looked at in time that grows with their number alone.
    pub fn reaches(&self, topic: &str, device: &Name, path: &str, devices: &impl Directory) -> bool {
        let id = device.as_str();
        let Some((_, role)) = devices.device(id) else { return false };
        let Some(role) = self.roles.iter().find(|known| known.name == role) else { return false };
        let matching = role.matching(topic);
        let is_about = matching.iter().any(|(rule, captures)| match captures.device {
            Some(named) => named == id,
            None => !rule.rule.deny && devices.takes_copies(id),
        });
        is_about && decide(&matching, device).is_ok_and(|(_, made)| made == path)
    }

    /// Which devices a message on `topic` is for.
    pub fn route(&self, topic: &str, devices: &impl Directory) -> Routed<'_> {
        let mut targets = Vec::new();
        let mut refusal = None;
        let mut named: Option<&str> = None;
        for role in &self.roles {
            let matching = role.matching(topic);
            // Each device that any of these rules is about.
            let mut about: Vec<Name> = Vec::new();
            for (rule, captures) in &matching {
                match captures.device {
                    Some(id) => {
                        named = named.or(Some(id));
                        match devices.device(id) {
                            Some((device, its)) if its == role.name => about.push(device),
                            Some(_) => {}
                            None => refusal = refusal.or(Some(Refusal::UnknownDevice)),
                        }
                    }
                    None if !rule.rule.deny => {
                        let all = devices.devices_of(&role.name);
                        if all.is_empty() {
                            refusal = refusal.or(Some(Refusal::NoDevice));
                        }
                        about.extend(all);
                    }
                    None => {}
                }
            }
            about.sort();
            about.dedup();
            for device in about {
                match decide(&matching, &device) {
                    Ok((rule, path)) => {
                        targets.push(Target { device, path, rule: &rule.rule, limits: &role.limits })
                    }
                    Err(why) => refusal = Some(why),
                }
            }
        }
        if !targets.is_empty() {
            return Routed::To(targets);
        }
        let own = self.command_filter.as_ref().and_then(|filter| filter.captures(topic));
        let captured = own.as_ref().and_then(|captures| captures.device);
        let device = named.or(captured);
        if device == Some(RESERVED_DEVICE) || device.is_none() && refusal.is_none() {
            return Routed::Nothing;
        }
        let refusal = refusal.unwrap_or_else(|| match device.and_then(|id| devices.device(id)) {
            Some(_) => Refusal::NoRule,
            None => Refusal::UnknownDevice,
        });
        let path = own.and_then(|captures| captures.rest).unwrap_or_default().to_owned();
        Routed::Refused { device: device.map(str::to_owned), path, refusal }
    }
}

/// The rule that decides about a device, and the path it makes.
fn decide<'r>(
    matching: &[(&'r CompiledRule, Captures<'_>)],
    device: &Name,
) -> Result<(&'r CompiledRule, String), Refusal> {
    let concerns = |captures: &Captures<'_>| captures.device.is_none_or(|id| id == device.as_str());
    let mut best: Option<&(&'r CompiledRule, Captures<'_>)> = None;
    for candidate in matching.iter().filter(|(_, captures)| concerns(captures)) {
        if candidate.0.rule.deny {
            return Err(Refusal::Denied(candidate.0.rule.name.clone()));
        }
        if best.is_none_or(|best| candidate.0.filter.rank() > best.0.filter.rank()) {
            best = Some(candidate);
        }
    }
    let Some((rule, captures)) = best else { return Err(Refusal::NoRule) };
    let path = expand(&rule.rule.path, captures);
    match Path::parse(&path) {
        // No Uri-Path has such a segment (RFC 7252 §5.10.1), and a device that has files for paths
        // would go out of their folder.
        Ok(parsed) if parsed.segments().any(|segment| matches!(segment, "." | "..")) => {
            Err(Refusal::Path(PathError::Dots))
        }
        Ok(parsed) => Ok((rule, parsed.as_str().to_owned())),
        Err(error) => Err(Refusal::Path(error)),
    }
}

/// Whether a rule with the path `template` could make `path` of a topic.
pub fn could_be(template: &str, path: &str) -> bool {
    let mut left = Some(path);
    for level in template.split('/') {
        let (before, after) = match level.find('{').zip(level.rfind('}')) {
            Some((start, end)) => (&level[..start], &level[end + 1..]),
            None => (level, ""),
        };
        if level.contains("{rest}") {
            // What follows the rest of a topic is not looked at.
            return left.unwrap_or_default().starts_with(before);
        }
        let Some(here) = left else { return false };
        let (text, rest) = match here.split_once('/') {
            Some((text, rest)) => (text, Some(rest)),
            None => (here, None),
        };
        let fits = match level.contains('{') {
            true => {
                text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
            }
            false => text == level,
        };
        if !fits {
            return false;
        }
        left = rest;
    }
    left.is_none()
}

/// The path of a rule with the captures in their places, in one pass: what a topic has is no
/// placeholder.
fn expand(template: &str, captures: &Captures<'_>) -> String {
    let mut path = String::new();
    let mut left = template;
    while let Some((text, inner)) = left.split_once('{') {
        path.push_str(text);
        let (place, after) = inner.split_once('}').unwrap_or((inner, ""));
        let level = place.parse().ok().and_then(|number: usize| captures.levels.get(number.wrapping_sub(1)));
        path.push_str(level.copied().or(captures.rest.filter(|_| place == "rest")).unwrap_or_default());
        left = after;
    }
    path.push_str(left);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::settings::RoleDownlink;

    struct Site;

    impl Directory for Site {
        fn device(&self, id: &str) -> Option<(Name, Name)> {
            let role = match id {
                "door-7" | "door-8" => "door",
                "lamp-1" => "lamp",
                _ => return None,
            };
            Some((Name::parse(id).unwrap(), Name::parse(role).unwrap()))
        }

        fn devices_of(&self, role: &Name) -> Vec<Name> {
            let ids: &[&str] = match role.as_str() {
                "door" => &["door-7", "door-8"],
                "lamp" => &["lamp-1"],
                _ => &[],
            };
            ids.iter().map(|id| Name::parse(id).unwrap()).collect()
        }

        fn takes_copies(&self, _: &str) -> bool {
            true
        }
    }

    /// A role of many devices; how often it was asked for one, and for all.
    #[derive(Default)]
    struct Large {
        one: std::cell::Cell<usize>,
        all: std::cell::Cell<usize>,
    }

    const LARGE: usize = 1_000;

    impl Directory for Large {
        fn device(&self, id: &str) -> Option<(Name, Name)> {
            self.one.set(self.one.get() + 1);
            Some((Name::parse(id).unwrap(), Name::parse("door").unwrap()))
        }

        fn devices_of(&self, _: &Name) -> Vec<Name> {
            self.all.set(self.all.get() + 1);
            (0..LARGE).map(|number| Name::parse(&format!("door-{number}")).unwrap()).collect()
        }

        fn takes_copies(&self, _: &str) -> bool {
            self.one.set(self.one.get() + 1);
            true
        }
    }

    fn rule(name: &str, topic: &str, path: &str, deny: bool) -> DownlinkRule {
        DownlinkRule { deny, ..DownlinkRule::new(Name::parse(name).unwrap(), topic, path) }
    }

    fn router(rules: Vec<DownlinkRule>) -> Router {
        let role = |name, rules| RoleDownlink {
            name: Name::parse(name).unwrap(),
            rules,
            mailbox: MailboxLimits::default(),
        };
        Router::new(&Settings {
            prefix: "tombolo/gw".to_owned(),
            gateway: "gw".to_owned(),
            command: Some("tombolo/gw/{device}/down/{path}".to_owned()),
            request: Some("tombolo/gw/{device}/request/{id}/{path}".to_owned()),
            reply: Some("tombolo/gw/{device}/reply/{path}".to_owned()),
            remote: Default::default(),
            filters: Vec::new(),
            served: Default::default(),
            roles: vec![role("door", rules), role("lamp", Vec::new())],
        })
    }

    fn all() -> DownlinkRule {
        rule("all", "{prefix}/{device}/down/#", "{rest}", false)
    }

    fn show(routed: &Routed<'_>) -> Vec<String> {
        match routed {
            Routed::Nothing => vec!["nothing".to_owned()],
            Routed::To(targets) => {
                targets.iter().map(|t| format!("{} {} {}", t.device, t.path, t.rule.name)).collect()
            }
            Routed::Refused { device, refusal, .. } => {
                vec![format!("{} {refusal:?}", device.as_deref().unwrap_or("-"))]
            }
        }
    }

    #[test]
    fn a_command_reaches_the_device_it_names_and_no_other() {
        let router = router(vec![all()]);
        let route = |topic: &str| show(&router.route(topic, &Site));
        assert_eq!(route("tombolo/gw/door-7/down/lock/state"), ["door-7 lock/state all"]);
        assert_eq!(route("tombolo/gw/lamp-1/down/on"), ["lamp-1 NoRule"]);
        assert_eq!(route("tombolo/gw/nobody/down/on"), ["nobody UnknownDevice"]);
        assert_eq!(route("tombolo/gw/gateway/down/update/check"), ["nothing"]);
        assert_eq!(route("tombolo/gw/door-7/up/t"), ["nothing"]);
    }

    #[test]
    fn a_deny_rule_and_then_the_most_specific_rule_decide() {
        let rules = vec![
            all(),
            rule("never", "{prefix}/{device}/down/factory/#", "", true),
            rule("relay", "{prefix}/{device}/down/relay/+", "out/{1}", false),
        ];
        let router = router(rules);
        let route = |topic: &str| show(&router.route(topic, &Site));
        assert_eq!(route("tombolo/gw/door-7/down/factory/reset"), ["door-7 Denied(\"never\")"]);
        assert_eq!(route("tombolo/gw/door-7/down/relay/2"), ["door-7 out/2 relay"]);
        assert_eq!(route("tombolo/gw/door-7/down/t"), ["door-7 t all"]);
    }

    #[test]
    fn a_rule_without_a_device_copies_to_every_device_of_the_role() {
        let router = router(vec![rule("site", "site/doors/#", "{rest}", false)]);
        let routed = router.route("site/doors/lock", &Site);
        assert_eq!(show(&routed), ["door-7 lock site", "door-8 lock site"]);
    }

    #[test]
    fn the_copies_of_a_message_are_looked_at_again_without_listing_all_devices_for_each() {
        let router = router(vec![rule("site", "site/doors/#", "{rest}", false)]);
        let devices = Large::default();
        let Routed::To(targets) = router.route("site/doors/lock", &devices) else { panic!() };
        assert_eq!((targets.len(), devices.all.get()), (LARGE, 1));
        devices.one.set(0);
        assert!(targets.iter().all(|to| router.reaches("site/doors/lock", &to.device, &to.path, &devices)));
        assert_eq!((devices.one.get(), devices.all.get()), (2 * LARGE, 1));
    }

    #[test]
    fn a_message_reaches_the_devices_that_it_is_for_and_no_others() {
        let rules = vec![
            all(),
            rule("never", "{prefix}/{device}/down/factory/#", "", true),
            rule("site", "site/doors/#", "{rest}", false),
        ];
        let router = router(rules);
        let door = Name::parse("door-7").unwrap();
        for topic in [
            "tombolo/gw/door-7/down/t",
            "tombolo/gw/door-7/down/factory/t",
            "site/doors/t",
            "tombolo/gw/door-8/down/t",
            "tombolo/gw/lamp-1/down/t",
            "elsewhere/t",
        ] {
            for path in ["t", "factory/t"] {
                let routed = router.route(topic, &Site);
                let is_for = matches!(&routed, Routed::To(targets) if targets.iter().any(|to| {
                    to.device == door && to.path == path
                }));
                assert_eq!(router.reaches(topic, &door, path, &Site), is_for, "{topic} {path}");
            }
        }
    }

    #[test]
    fn a_topic_that_gives_no_path_is_refused() {
        let router = router(vec![all()]);
        assert!(!matches!(router.route("tombolo/gw/door-7/down/.a/b..", &Site), Routed::Refused { .. }));
        let dots = ["..", ".", "a/../b", "./a", "a/."].map(|path| format!("tombolo/gw/door-7/down/{path}"));
        let topics = ["tombolo/gw/door-7/down", "tombolo/gw/door-7/down/a//b"];
        for topic in topics.into_iter().chain(dots.iter().map(String::as_str)) {
            let routed = router.route(topic, &Site);
            assert!(matches!(routed, Routed::Refused { refusal: Refusal::Path(_), .. }), "{routed:?}");
        }
    }

    #[test]
    fn a_device_may_fetch_what_a_rule_could_bring() {
        let fits = |template: &str, path: &str| could_be(template, path);
        assert!(fits("{rest}", "a/b") && fits("set/{1}", "set/level") && fits("x{1}y/{2}", "x1y/z"));
        assert!(fits("c/{rest}", "c/a/b") && fits("c/{rest}", "c") && fits("fixed", "fixed"));
        assert!(!fits("set/{1}", "set") && !fits("set/{1}", "set/a/b") && !fits("fixed", "other"));
        assert!(!fits("c/{rest}", "d/a") && !fits("x{1}y", "xy2") && !fits("", "a"));
        let requests = DownlinkRule { deliver: Deliver::Request, ..all() };
        let door = Name::parse("door").unwrap();
        assert!(router(vec![all()]).offers(&door, "t") && !router(vec![requests]).offers(&door, "t"));
        assert!(!router(vec![all()]).offers(&Name::parse("lamp").unwrap(), "t"));
    }

    #[test]
    fn a_request_is_asked_about_as_a_command_and_its_reply_has_the_id() {
        let router = router(vec![all()]);
        let request = router.request("tombolo/gw/door-7/request/77/lock/state").unwrap();
        assert_eq!(request.topic, "tombolo/gw/door-7/down/lock/state");
        assert_eq!(request.reply.as_deref(), Some("tombolo/gw/door-7/reply/77/lock/state"));
        assert_eq!(router.request("tombolo/gw/door-7/down/lock"), None);
    }
}
