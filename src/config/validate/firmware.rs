//! Firmware for sensors: `[role.*] firmware…` and `[update] firmware-…`.

use std::collections::BTreeMap;

use super::Context;
use crate::config::model;
use crate::gate::field::FieldPointer;
use crate::gate::pattern::Pattern;
use crate::message::Name;
use crate::southbound::coap::reported::Report;
use crate::update::firmware::settings::{CLASSES_MAX, RoleFirmware, Rollout, STEPS_MAX, SensorFirmware};
use crate::update::offer::GATEWAY_CLASS;
use crate::update::rollout::Share;
use crate::update::settings::Source;

const PATH: &str = "firmware-version-path";
const FIELD: &str = "firmware-version-field";

/// A fault leaves the role, or the steps, without it.
pub(super) fn sensors(
    cx: &mut Context<'_>,
    table: &model::Update,
    roles: &BTreeMap<String, model::Role>,
    source: &Source,
) -> SensorFirmware {
    let mut sensors = SensorFirmware {
        roles: BTreeMap::new(),
        disk: table.firmware_disk.unwrap_or(SensorFirmware::DISK),
        rollout: rollout(cx, table),
    };
    for (name, table) in roles.iter().filter(|(_, table)| table.enabled != Some(false)) {
        let (Some(role), Some(firmware)) = (Name::parse(name).ok(), of_role(cx, name, table)) else {
            continue;
        };
        if sensors.classes().len() == CLASSES_MAX && !sensors.classes().contains(&firmware.class) {
            let message = format!("more than {CLASSES_MAX} classes of firmware");
            fail(cx, name, "firmware", message, "let roles share a class");
            continue;
        }
        sensors.roles.insert(role, firmware);
    }
    if let Some((role, _)) = sensors.roles.iter().next().filter(|_| !matches!(source, Source::Tuf(_))) {
        let (subject, message) =
            (format!("role {role}"), "no firmware comes: only a TUF repository offers any to sensors");
        let advice = "set [update] source = \"tuf\", or take firmware out of the role";
        cx.warn(&subject, &["role", role.as_str(), "firmware"], message, advice);
    }
    sensors
}

fn fail(cx: &mut Context<'_>, role: &str, key: &str, message: String, advice: &str) {
    cx.fail(&format!("role {role}"), &["role", role, key], message, advice);
}

/// Which readings of which role report the version.
pub(super) fn reports(cx: &mut Context<'_>, roles: &BTreeMap<String, model::Role>) -> BTreeMap<Name, Report> {
    let enabled = roles.iter().filter(|(_, table)| table.enabled != Some(false) && table.firmware.is_some());
    enabled.filter_map(|(name, table)| Some((Name::parse(name).ok()?, report(cx, name, table)?))).collect()
}

fn report(cx: &mut Context<'_>, name: &str, table: &model::Role) -> Option<Report> {
    let (path, field) = (&table.firmware_version_path, &table.firmware_version_field);
    match (path, field) {
        (None, None) => None,
        (None, Some(_)) => {
            let advice = "set firmware-version-path, like \"info\"";
            fail(cx, name, FIELD, "firmware-version-path is not set".to_owned(), advice);
            None
        }
        (Some(path), field) => {
            let path = Pattern::parse(path).map_err(|error| {
                fail(cx, name, PATH, format!("{path:?}: {error}"), "write it like \"info\" or \"sys/#\"");
            });
            let field = field.as_deref().map(|text| {
                FieldPointer::parse(text).map_err(|error| {
                    fail(
                        cx,
                        name,
                        FIELD,
                        format!("{text:?}: {error}"),
                        "write it like \"/firmware/version\"",
                    );
                })
            });
            Some(Report { path: path.ok()?, field: field.transpose().ok()? })
        }
    }
}

fn of_role(cx: &mut Context<'_>, name: &str, table: &model::Role) -> Option<RoleFirmware> {
    let (path, field) = (&table.firmware_version_path, &table.firmware_version_field);
    let Some(class) = &table.firmware else {
        if let Some(key) = path.as_ref().map(|_| PATH).or(field.as_ref().map(|_| FIELD)) {
            let advice = "set firmware = \"CLASS\", or take the key out";
            cx.warn(
                &format!("role {name}"),
                &["role", name, key],
                "without effect: firmware is not set",
                advice,
            );
        }
        return None;
    };
    if class == GATEWAY_CLASS {
        let message = format!("{class:?} is the class of gateways");
        fail(cx, name, "firmware", message, "name a class of sensors");
        return None;
    }
    Some(RoleFirmware { class: Name::parse(class).ok()? })
}

fn rollout(cx: &mut Context<'_>, table: &model::Update) -> Rollout {
    let default = Rollout::default();
    let steps = table.firmware_steps.as_deref().map(|text| {
        steps(text).unwrap_or_else(|| {
            let message = format!("{text:?}: not rising percentages; no version goes out");
            let advice = "write at most 16 of them, like \"1, 10, 50, 100\"";
            cx.fail("update", &["update", "firmware-steps"], message, advice);
            // All devices at once would be the opposite of what was wanted.
            Share::from_percent(0.0).into_iter().collect()
        })
    });
    Rollout {
        steps: steps.unwrap_or(default.steps),
        step_after: table.firmware_step_after.map_or(default.step_after, |span| span.0),
        report_within: table.firmware_report_within.map_or(default.report_within, |span| span.0),
        failures: table.firmware_failures.unwrap_or(default.failures),
    }
}

fn steps(text: &str) -> Option<Vec<Share>> {
    let share = |part: &str| part.trim().parse().ok().and_then(Share::from_percent);
    let steps: Vec<Share> = text.split(',').map(share).collect::<Option<_>>()?;
    let is_rising = steps.windows(2).all(|pair| pair[0] < pair[1]);
    (is_rising && steps.len() <= STEPS_MAX).then_some(steps)
}
