//! `parent` of devices: whether the devices they name can forward their readings.
//!
//! These are only warnings: a device of a fleet may come later, and a child may have a key of its
//! own.

use std::collections::{BTreeMap, HashMap};

use super::Context;
use crate::config::Known;
use crate::config::finding::Finding;
use crate::config::scalar;
use crate::gate::{Device, Settings};
use crate::message::Name;

/// Warns of parents that are no devices, and of those that may not speak for their children: one
/// finding for each, since it may have many.
pub(super) fn parents(cx: &mut Context<'_>, gate: &Settings, known: &[Known]) {
    let mut families: BTreeMap<&Name, Vec<&Device>> = BTreeMap::new();
    for device in &gate.devices {
        if let Some(parent) = &device.parent {
            families.entry(parent).or_default().push(device);
        }
    }
    if families.is_empty() {
        return;
    }
    let known: HashMap<&str, &Known> = known.iter().rev().map(|it| (it.id.as_str(), it)).collect();
    for (parent, children) in families {
        let found = gate.devices.binary_search_by(|device| device.id.cmp(parent));
        let role = found.ok().and_then(|at| {
            let role = &gate.devices[at].role;
            gate.roles.iter().find(|known| known.name == *role)
        });
        let mute: Vec<&Device> = match role {
            Some(role) => children.into_iter().filter(|child| !may_speak(role, &child.role)).collect(),
            // It may be one of a fleet.
            None if !gate.fleets.is_empty() && !known.contains_key(parent.as_str()) => {
                continue;
            }
            None => children,
        };
        let (first, subject) = match mute.as_slice() {
            [] => continue,
            [one] => (one, format!("device {}", one.id)),
            [first, ..] => (first, format!("device {} and {} more", first.id, mute.len() - 1)),
        };
        let (message, advice) = match role {
            Some(role) => (
                format!(
                    "no on-behalf rule of the role {:?} lets {parent} forward its readings",
                    role.name.as_str()
                ),
                format!("add [role.{}.on-behalf.NAME] with path = \"#\"", role.name),
            ),
            None => (
                format!("its parent {parent} is no usable device, so nothing forwards its readings"),
                "add that device, or name another parent".to_owned(),
            ),
        };
        let place = known.get(first.id.as_str()).and_then(|it| it.place.as_ref());
        cx.findings.push(Finding::warn(subject, message).at(place).advice(&advice));
    }
}

/// Why nothing would forward the readings of a device, now that it is added or changed; `None`: its
/// parent does, or it has none.
pub(in crate::config) fn mute(gate: &Settings, known: &[Known], child: &Device) -> Option<String> {
    let (parent, id) = (child.parent.as_ref()?, &child.id);
    let Some(found) = known.iter().find(|known| known.id == parent.as_str()) else {
        let near = scalar::did_you_mean(parent.as_str(), known.iter().map(|known| known.id.as_str()));
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return Some(match gate.fleets.is_empty() {
            true => format!(
                "there is no device {parent}, so nothing forwards the readings of {id} until it is added{near}"
            ),
            false => format!(
                "there is no device {parent}: nothing forwards the readings of {id}, unless it is one of a fleet{near}"
            ),
        });
    };
    if !found.usable {
        return Some(format!(
            "{parent} is disabled, so nothing forwards the readings of {id}; `tombolo check` says why"
        ));
    }
    let role = gate.roles.iter().find(|role| found.role() == Some(&role.name))?;
    (!may_speak(role, &child.role)).then(|| {
        format!(
            "no on-behalf rule of the role {:?} lets {parent} forward the readings of {id}; add [role.{}.on-behalf.NAME] with \
             path = \"#\"",
            role.name.as_str(),
            role.name
        )
    })
}

fn may_speak(role: &crate::gate::Role, child: &Name) -> bool {
    let of_child = |roles: &[Name]| roles.is_empty() || roles.contains(child);
    role.on_behalf.iter().any(|rule| !rule.deny && of_child(&rule.roles))
}
