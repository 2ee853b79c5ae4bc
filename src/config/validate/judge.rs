//! The gate's check of its settings, reported with their lines: an item that the gate would close
//! is removed and reported here.

use std::collections::BTreeSet;

use super::Context;
use super::includes::{self, Tables};
use crate::config::Known;
use crate::gate::{self, Fault, Item, Settings};
use crate::message::Name;

/// Removes the roles that the gate would close, those in `closed`, and those that include one of
/// them.
pub(super) fn roles(
    cx: &mut Context<'_>,
    settings: &mut Settings,
    mut closed: BTreeSet<Name>,
    tables: &Tables,
) {
    for problem in gate::check(settings) {
        let (role, mut key) = match &problem.item {
            Item::Role(role) => (role, vec!["role", role.as_str()]),
            Item::Rule { role, rule } => {
                let at = written_in(settings, role, rule).unwrap_or(role);
                (role, vec!["role", at.as_str(), "uplink", rule.as_str()])
            }
            // The prefix was checked before; there are no devices yet.
            Item::Topics | Item::Device(_) | Item::Fleet(_) => continue,
        };
        let mut message = problem.fault.to_string();
        let (last, advice) = match &problem.fault {
            Fault::Tie { .. } => (Some("path"), "change one, or take one out"),
            Fault::NoTopic => (None, "set topic"),
            Fault::Template(_) | Fault::Mapping(_) | Fault::OwnTopic { .. } => {
                let rules = settings.roles.iter().filter(|known| known.name == *role).flat_map(|r| &r.uplink);
                let own = rules
                    .filter(|rule| Some(&rule.name.as_str()) == key.last())
                    .find_map(|r| r.topic.as_ref());
                message = match own {
                    Some(topic) => format!("{:?}: {message}", topic.as_str()),
                    None => format!("with topics.reading, {message}"),
                };
                let advice = match &problem.fault {
                    Fault::OwnTopic { .. } => {
                        "give the rule a level that topic does not have, like {prefix}/{device}/up/{path}"
                    }
                    _ => "set a topic that fits this rule's path",
                };
                (own.map(|_| "topic"), advice)
            }
            Fault::DeleteWithoutRetain => (Some("delete"), "set retain = true too"),
            Fault::QueryNeeded { .. } => {
                (Some("topic"), "take {query.NAME} out of it, or set query = \"publish\" for this rule")
            }
            Fault::DenyWith { key } => (Some(*key), "take it out"),
            Fault::TooManyFormats => (Some("content-formats"), "take some out"),
            Fault::TooManyOnBehalf => (Some("on-behalf"), "take some out"),
            Fault::Quota(_) => (Some("quota"), "correct the quota"),
            Fault::PayloadLimit => (Some("max-payload"), "use at most 64KiB"),
            Fault::PayloadExceedsQuota { .. } => (Some("max-payload"), "raise quota.bytes, or use less"),
            _ => (None, "correct it"),
        };
        key.extend(last);
        cx.fail(&format!("role {role}"), &key, message, advice);
        closed.insert(role.clone());
    }
    // A rule that a closed role would have had may be one that denies.
    let own = closed.clone();
    for role in settings.roles.iter().filter(|role| !own.contains(&role.name)) {
        let order = includes::order(tables, role.name.as_str()).unwrap_or_default();
        if let Some(included) = order.into_iter().find(|included| own.contains(*included)) {
            let key = ["role", role.name.as_str(), "includes"];
            let message = includes::disabled(included);
            cx.fail(&format!("role {}", role.name), &key, message, includes::CORRECT);
            closed.insert(role.name.clone());
        }
    }
    settings.roles.retain(|role| !closed.contains(&role.name));
}

/// The role in whose table a rule of a role stands, where that is another one.
pub(super) fn written_in<'s>(settings: &'s Settings, role: &Name, rule: &Name) -> Option<&'s Name> {
    let role = settings.roles.iter().find(|known| known.name == *role)?;
    role.uplink.iter().find(|known| known.name == *rule)?.from.as_ref()
}

/// Removes the devices that the gate would close.
pub(super) fn devices(cx: &mut Context<'_>, settings: &mut Settings, known: &mut [Known]) {
    let mut closed = BTreeSet::new();
    for problem in gate::check(settings) {
        let Item::Device(id) = &problem.item else { continue };
        let subject = format!("device {id}");
        let advice = match &problem.fault {
            Fault::IdTaken { .. } => "use another id, or another topic in that rule",
            Fault::OwnParent | Fault::ParentIsChild { .. } => "name the device that forwards its readings",
            Fault::TooManyChildren { .. } => "give it another parent",
            _ => "correct it",
        };
        let entry = known.iter_mut().find(|entry| entry.id == id.as_str());
        let place = entry.and_then(|entry| {
            entry.usable = false;
            entry.place.clone()
        });
        let finding = crate::config::Finding::fail(subject, problem.fault.to_string()).at(place.as_ref());
        cx.findings.push(finding.key(format!("device.{id}")).advice(advice));
        closed.insert(id.clone());
    }
    for device in settings.devices.extract_if(.., |device| closed.contains(&device.id)) {
        settings.withheld.add(&device);
    }
}
