//! Checks whether readings of a serial device can pass: a rule for its path, its payload limit, and
//! its quota.
//!
//! These are only warnings: a later drop-in may add a rule, and real readings may be shorter than
//! the maximum.

use std::time::Duration;

use super::Context;
use super::role::pattern_of;
use crate::config::model::Serial;
use crate::downlink::router::could_be;
use crate::gate::policy::PAYLOAD_MAX;
use crate::gate::{self, Quota, Role};
use crate::message::Name;
use crate::proto::serial::modbus::change::Publish;
use crate::proto::serial::modbus::settings::Unit;
use crate::proto::serial::reading::PATH_DEFAULT;
use crate::southbound::serial::settings::{Duty, Port};

/// Warns about each device of a port whose readings would be refused.
pub(super) fn port(cx: &mut Context<'_>, gate: &gate::Settings, port: &Port, table: &Serial) {
    let name = port.name.as_str();
    match &port.duty {
        // The paths are chosen by the node.
        Duty::Slipmux { .. } => {}
        Duty::Readings { poll, write, .. } => {
            let Some(role) = role(gate, &port.name) else { return };
            let key = ["serial", name];
            if write.is_some() && !role.downlink.iter().any(|rule| !rule.deny) {
                let message = format!(
                    "it takes commands, and no downlink rule of the role {:?} allows any",
                    role.name.as_str()
                );
                cx.warn(&subject(&key), &with(&key, "writable"), message, &downlink_advice(role));
            }
            // Of some devices nothing is read but the answers to commands.
            let has_only_commands = write.is_some() && role.uplink.is_empty() && table.path.is_none();
            if !has_only_commands {
                rule(cx, role, &subject(&key), &key, table.path.as_deref().unwrap_or(PATH_DEFAULT));
            }
            if let Some(poll) = poll {
                rhythm(cx, role, &with(&key, "poll-period"), poll.period, "raise the quota or the period");
            }
        }
        Duty::Modbus(bus, _) => {
            for unit in &bus.units {
                let (Some(key), Some(role)) = (key_of(table, unit), role(gate, &unit.id)) else { continue };
                let key = ["serial", name, "unit", key];
                rule(cx, role, &subject(&key), &key, &unit.path);
                values(cx, role, &key, unit);
                size(cx, role, &key, unit);
                if unit.publish == Publish::Always {
                    let advice = "raise the quota or the period, or set publish = \"change\"";
                    rhythm(cx, role, &with(&key, "period"), unit.period, advice);
                }
            }
        }
    }
}

/// The key of a unit in the table; its address may have leading zeros there.
pub(super) fn key_of<'a>(table: &'a Serial, unit: &Unit) -> Option<&'a str> {
    let own = |id: &Option<String>| id.as_deref() == Some(unit.id.as_str());
    let found = table.unit.iter().find(|(key, table)| key.parse() == Ok(unit.address) && own(&table.id));
    found.map(|(key, _)| key.as_str())
}

fn role<'a>(gate: &'a gate::Settings, device: &Name) -> Option<&'a Role> {
    let device = gate.devices.iter().find(|known| known.id == *device)?;
    gate.roles.iter().find(|role| role.name == device.role)
}

fn subject(key: &[&str]) -> String {
    format!("serial {}", key.get(1).copied().unwrap_or_default())
}

/// Warns of readings of this path, which is written at `key`, that the rules refuse.
pub(super) fn rule(cx: &mut Context<'_>, role: &Role, subject: &str, key: &[&str], path: &str) {
    // A capture is one level.
    let levels: Vec<Option<&str>> =
        path.split('/').map(|level| (!level.contains('{')).then_some(level)).collect();
    let matching = || role.uplink.iter().filter(|rule| rule.path.may_match(&levels));
    let known = levels.iter().all(Option::is_some);
    let denied = matching().find(|rule| rule.deny && known);
    let message = match denied {
        Some(rule) => {
            format!("the rule {} of the role {:?} denies its path {path:?}", rule.name, role.name.as_str())
        }
        None if matching().any(|rule| !rule.deny) => return,
        None => format!("no rule of the role {:?} lets its path {path:?} pass", role.name.as_str()),
    };
    let advice = match denied {
        Some(_) => "take that rule out, or set another path".to_owned(),
        None => {
            let pattern = pattern_of(path);
            format!("add [role.{}.uplink.NAME] with path = {pattern:?}, or set another path", role.name)
        }
    };
    cx.warn(subject, &with(key, "path"), message, &advice);
}

/// Warns of values that are writable and that no downlink rule reaches.
fn values(cx: &mut Context<'_>, role: &Role, key: &[&str], unit: &Unit) {
    let writable = unit.registers.iter().filter(|register| register.write.is_some());
    let is_reached = |path: &str| role.downlink.iter().any(|rule| !rule.deny && could_be(&rule.path, path));
    let unreached: Vec<&str> =
        writable.map(|register| register.name.as_str()).filter(|name| !is_reached(name)).collect();
    if unreached.is_empty() {
        return;
    }
    let message = format!(
        "no downlink rule of the role {:?} reaches what is writable: {}",
        role.name.as_str(),
        unreached.join(", ")
    );
    cx.warn(&subject(key), key, message, &downlink_advice(role));
}

fn downlink_advice(role: &Role) -> String {
    format!(
        "add [role.{}.downlink.NAME] with topic = \"{{prefix}}/{{device}}/down/#\" and path = \"{{rest}}\", or take writable out",
        role.name
    )
}

/// Warns of roles with a downlink rule of whose devices, all on serial lines, none takes a command.
pub(super) fn commands(cx: &mut Context<'_>, gate: &gate::Settings, ports: &[Port]) {
    let has_rule = |role: &&Role| role.downlink.iter().any(|rule| !rule.deny);
    for role in gate.roles.iter().filter(has_rule) {
        let devices = gate.devices.iter().filter(|device| device.role == role.name);
        let devices: Vec<&Name> = devices.map(|device| &device.id).collect();
        // A CoAP node and a device with a credential take commands, too.
        let takes_none = |device: &Name| {
            let port = ports.iter().find(|port| port.devices().any(|own| own == device));
            port.is_some_and(|port| {
                !matches!(port.duty, Duty::Slipmux { .. }) && !port.takers().any(|own| own == device)
            })
        };
        let is_of_fleet = gate.fleets.iter().any(|fleet| fleet.role == role.name);
        if devices.is_empty() || is_of_fleet || !devices.iter().all(|device| takes_none(device)) {
            continue;
        }
        let names: Vec<&str> = devices.iter().take(3).map(|device| device.as_str()).collect();
        let message = format!(
            "the role has a downlink rule, and its devices are on serial lines with nothing writable: {}",
            names.join(", ")
        );
        let advice = "set writable = true for a register or a line, or take the downlink rules out";
        cx.warn(&format!("role {}", role.name), &["role", role.name.as_str(), "downlink"], message, advice);
    }
}

fn size(cx: &mut Context<'_>, role: &Role, key: &[&str], unit: &Unit) {
    let most = u64::from(role.max_payload.unwrap_or(PAYLOAD_MAX)).min(role.quota.bytes);
    let longest = unit.payload_max();
    if longest as u64 > most {
        let message = format!(
            "its readings can be up to {longest} bytes long; the role {:?} lets {most} pass",
            role.name.as_str()
        );
        cx.warn(&subject(key), key, message, "raise the role's max-payload, or read fewer registers");
    }
}

pub(super) fn rhythm(cx: &mut Context<'_>, role: &Role, key: &[&str], period: Duration, advice: &str) {
    let Quota { messages, per, .. } = role.quota;
    if period.saturating_mul(messages) < per {
        let shown = crate::config::scalar::format_duration;
        let message = format!(
            "a reading every {} is more than the quota of the role {:?}: {messages} in {}",
            shown(period),
            role.name.as_str(),
            shown(per)
        );
        let subject = match key {
            ["serial", ..] => subject(key),
            _ => key.iter().take(2).copied().collect::<Vec<_>>().join(" "),
        };
        cx.warn(&subject, key, message, advice);
    }
}

fn with<'a>(key: &[&'a str], last: &'a str) -> Vec<&'a str> {
    key.iter().copied().chain([last]).collect()
}
