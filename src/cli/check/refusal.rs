//! Devices of which most readings are refused, by the counters of the running daemon. What the
//! quota refuses is told of as long as it lasts, by those that are held back.

use std::collections::BTreeMap;

use crate::config::Finding;
use crate::control::snapshot::DeviceState;
use crate::control::verdict::{ALL_REFUSED, OVER_QUOTA};

/// Fewer refused readings of a device are no warning, if any was taken.
const LEAST: u64 = 10;
/// Devices that are named.
const SHOWN: usize = 10;

/// A warning for each device of which more was refused than taken since the daemon started.
pub fn told(devices: &BTreeMap<String, DeviceState>) -> Vec<Finding> {
    let is_loud = |device: &&DeviceState| match taken(device) {
        0 => refused(device) >= ALL_REFUSED,
        taken => refused(device) >= LEAST && refused(device) > taken,
    };
    let loud: Vec<&DeviceState> = devices.values().filter(is_loud).collect();
    let mut findings: Vec<Finding> = loud.iter().take(SHOWN).map(|device| one(device)).collect();
    if let Some(more) = loud.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let message = format!("and most readings of {more} more devices were refused");
        findings.push(Finding::warn("devices", message).advice("`tombolo device show ID` says why"));
    }
    findings
}

/// Readings that the gateway acknowledged: also those that a filter keeps from being published.
fn taken(device: &DeviceState) -> u64 {
    device.accepted.saturating_add(device.filtered)
}

/// Refused readings but those that were over quota.
fn refused(device: &DeviceState) -> u64 {
    let over_quota = device.refused_reasons.get(OVER_QUOTA).copied().unwrap_or_default();
    device.refused.saturating_sub(over_quota)
}

fn one(device: &DeviceState) -> Finding {
    let refused = refused(device);
    let all = refused.saturating_add(taken(device));
    let others = device.refused_reasons.iter().filter(|(reason, _)| *reason != OVER_QUOTA);
    let why = others.max_by_key(|(_, count)| **count).map_or_else(String::new, |(reason, count)| {
        format!(", {count} for the reason \"{}\"", reason.replace('_', " "))
    });
    let message = format!("{refused} of its {all} readings were refused since the daemon started{why}");
    let advice = format!(
        "`tombolo device show {0}` shows the last one, `tombolo acl explain {0} POST PATH` what the rules say of a path",
        device.id
    );
    Finding::warn(format!("device {}", device.id), message).advice(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_whose_readings_are_mostly_refused_is_warned_of_with_the_reason() {
        let device = |id: &str, accepted, reasons: &[(&str, u64)]| DeviceState {
            id: id.to_owned(),
            role: "meter".to_owned(),
            accepted,
            refused: reasons.iter().map(|(_, count)| count).sum(),
            refused_reasons: reasons.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            ..DeviceState::default()
        };
        let devices = [
            device("calm", 1, &[("no_rule", 9)]),
            device("coap", 10, &[("over_quota", 85), ("no_rule", 15)]),
            device("loud", 10, &[("over_quota", 85), ("no_rule", 5)]),
            device("few", 0, &[("no_rule", ALL_REFUSED - 1)]),
            device("lost", 1, &[("no_rule", 20)]),
            device("none", 0, &[("no_rule", ALL_REFUSED)]),
            device("some", 100, &[("over_quota", 90)]),
        ];
        let found = told(&devices.map(|device| (device.id.clone(), device)).into());
        let found: Vec<String> = found.iter().map(Finding::sentence).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("15 of its 25 readings") && found[0].contains("no rule"), "{}", found[0]);
        assert!(found[1].contains("20 of its 21 readings") && found[1].contains("no rule"), "{}", found[1]);
        assert!(found[2].contains("3 of its 3 readings") && found[2].contains("no rule"), "{}", found[2]);
        // What a filter leaves out was taken.
        let filtered = |filtered| DeviceState { filtered, ..device("f", 0, &[("no_rule", 12)]) };
        let told_of = |of: DeviceState| told(&[("f".to_owned(), of)].into());
        assert!(told_of(filtered(100)).is_empty());
        let found = told_of(filtered(4));
        assert!(found[0].sentence().contains("12 of its 16 readings"), "{}", found[0].sentence());
        let many: BTreeMap<String, DeviceState> =
            (0..30).map(|at| (at.to_string(), device("x", 0, &[("no_rule", 10)]))).collect();
        assert_eq!(told(&many).len(), SHOWN + 1);
    }
}
