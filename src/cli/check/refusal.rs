//! Devices of which most readings are refused, by the counters of the running daemon.

use std::collections::BTreeMap;

use crate::config::Finding;
use crate::control::snapshot::DeviceState;

/// Fewer refused readings of a device are no warning.
const LEAST: u64 = 10;
/// Devices that are named.
const SHOWN: usize = 10;
/// The quota, as a reason of the counters.
const OVER_QUOTA: &str = "over_quota";

/// A warning for each device of which more was refused than accepted since the daemon started.
pub fn told(devices: &BTreeMap<String, DeviceState>) -> Vec<Finding> {
    let is_loud = |device: &&DeviceState| device.refused >= LEAST && device.refused > device.accepted;
    let loud: Vec<&DeviceState> = devices.values().filter(is_loud).collect();
    let mut findings: Vec<Finding> = loud.iter().take(SHOWN).map(|device| one(device)).collect();
    if let Some(more) = loud.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let message = format!("and most readings of {more} more devices were refused");
        findings.push(Finding::warn("devices", message).advice("`tombolo device show ID` says why"));
    }
    findings
}

fn one(device: &DeviceState) -> Finding {
    let all = device.refused + device.accepted;
    let subject = format!("device {}", device.id);
    let most = device.refused_reasons.iter().max_by_key(|(_, count)| **count);
    match most {
        Some((reason, count)) if reason == OVER_QUOTA => {
            let message =
                format!("the quota refused {count} of its {all} readings since the daemon started",);
            let advice =
                format!("raise the quota of [role.{}], or let the device send less often", device.role);
            Finding::warn(subject, message).advice(advice)
        }
        most => {
            let why = most.map_or_else(String::new, |(reason, count)| {
                format!(", {count} for the reason \"{}\"", reason.replace('_', " "))
            });
            let message = format!(
                "{} of its {all} readings were refused since the daemon started{why}",
                device.refused
            );
            let advice = format!(
                "`tombolo device show {}` shows the last one, `tombolo acl explain` what the rules say of a path",
                device.id
            );
            Finding::warn(subject, message).advice(advice)
        }
    }
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
            device("calm", 0, &[("over_quota", 9)]),
            device("coap", 10, &[("over_quota", 85), ("no_rule", 5)]),
            device("lost", 1, &[("no_rule", 20)]),
            device("some", 100, &[("over_quota", 90)]),
        ];
        let found = told(&devices.map(|device| (device.id.clone(), device)).into());
        let found: Vec<String> = found.iter().map(Finding::sentence).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("the quota refused 85 of its 100 readings"), "{}", found[0]);
        assert!(found[0].contains("raise the quota of [role.meter]"), "{}", found[0]);
        assert!(found[1].contains("20 of its 21 readings") && found[1].contains("no rule"), "{}", found[1]);
        let many: BTreeMap<String, DeviceState> =
            (0..30).map(|at| (at.to_string(), device("x", 0, &[("over_quota", 10)]))).collect();
        assert_eq!(told(&many).len(), SHOWN + 1);
    }
}
