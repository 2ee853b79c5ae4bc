//! `[fleet.*]`: one entry for many devices.

use std::collections::BTreeSet;

use super::Context;
use super::certificate::Names;
use super::device::{Roles, tags};
use crate::config::layer::Item;
use crate::config::model;
use crate::gate::{Fault, Fleet, Item as GateItem, Role, Settings};
use crate::message::Name;

/// Default of `max-devices`.
const MAX_DEVICES: u32 = 1_000;

/// The valid fleets, in name order.
pub(super) fn fleets(
    cx: &mut Context<'_>,
    file: &model::File,
    bad: &BTreeSet<Item>,
    roles: &[Role],
) -> Vec<Fleet> {
    let usable = Roles { file, bad, usable: roles, off: &BTreeSet::new() };
    let mut fleets = Vec::new();
    for (name, table) in &file.fleet {
        if table.enabled != Some(false)
            && let Some(fleet) = fleet(cx, name, table, &usable)
        {
            fleets.push(fleet);
        }
    }
    fleets
}

fn fleet(cx: &mut Context<'_>, item: &str, table: &model::Fleet, roles: &Roles<'_>) -> Option<Fleet> {
    let role = roles.role(cx, "fleet", item, table.role.as_deref());
    let names = Names {
        uri: table.certificate_uri.as_deref(),
        dns: table.certificate_dns.as_deref(),
        common_name: table.certificate_cn.as_deref(),
        issuer: table.certificate_issuer.as_deref(),
    };
    let certificate = names.fleet(cx, item);
    let tags = tags(cx, &format!("fleet {item}"), &["fleet", item], &table.tags);
    Some(Fleet {
        name: Name::parse(item).ok()?,
        role: role?,
        label: table.label.clone(),
        tags: tags.ok()?,
        certificate: certificate?,
        max_devices: table.max_devices.unwrap_or(MAX_DEVICES),
        offline_after: table.offline_after.map(|span| span.0),
    })
}

/// Reports the effect of `[device.ID]` with `enabled = false` and without a credential: it excludes
/// the device with this id from fleets. An id that looks like the beginning of a certificate name
/// is probably a mistake.
///
/// `off`: the ids of such devices.
pub(super) fn exclusions(cx: &mut Context<'_>, off: &[String], fleets: &[Fleet]) {
    for id in off {
        let (subject, key) = (format!("device {id}"), ["device", id.as_str(), "enabled"]);
        for fleet in fleets {
            let of =
                |id: &str| format!("{} {}", fleet.certificate.kind().key(), fleet.certificate.name_of(id));
            let message = format!("excludes the device {id} of fleet {} ({})", fleet.name, of(id));
            match fleet.certificate.part_of(id) {
                Some(part) => {
                    let advice = format!("if {} is meant, write [device.{part}]", of(part.as_str()));
                    cx.warn(&subject, &key, message, &advice);
                }
                None => {
                    let finding = cx.at(crate::config::Finding::ok(subject.clone(), message), &key, "");
                    cx.findings.push(finding);
                }
            }
        }
    }
}

/// Removes the fleets that the gate would refuse.
pub(super) fn judge(cx: &mut Context<'_>, settings: &mut Settings) {
    let mut closed = BTreeSet::new();
    for problem in crate::gate::check(settings) {
        let GateItem::Fleet(name) = &problem.item else { continue };
        let kind =
            settings.fleets.iter().find(|fleet| fleet.name == *name).map(|fleet| fleet.certificate.kind());
        let key = match (&problem.fault, kind) {
            (Fault::FleetOverlap { .. }, Some(kind)) => vec!["fleet", name.as_str(), kind.key()],
            _ => vec!["fleet", name.as_str()],
        };
        let advice =
            "change the patterns so that no name matches both, or distinguish them by certificate-issuer";
        cx.fail(&format!("fleet {name}"), &key, problem.fault.to_string(), advice);
        closed.insert(name.clone());
    }
    settings.fleets.retain(|fleet| !closed.contains(&fleet.name));
}
