//! What is observed and polled of devices, as `status` and `device show` show it.

use std::time::Instant;

use super::commands::Commands;
use crate::control::snapshot::{ServedResource, ServedTotals, ServedTrouble};
use crate::downlink::served::{Manner, ServedPath, ServedView};
use crate::gate::DeviceView;
use crate::telemetry::counters::Snapshot;

/// Resources with trouble that are named.
const NAMED: usize = 16;

/// What is asked of one device, also of one that was not heard yet and can have a session.
pub fn of_device(commands: &Commands, now: Instant, view: &DeviceView<'_>) -> Vec<ServedResource> {
    let heard: Vec<ServedResource> =
        commands.served_views(view.id).map(|view| resource(now, &view)).collect();
    if heard.is_empty() && view.has_credential {
        return commands.served_paths(view.id, view.role).iter().map(described).collect();
    }
    heard
}

/// What is asked of all devices.
pub fn totals(commands: &Commands, now: Instant) -> ServedTotals {
    let mut totals = ServedTotals::default();
    for (device, view) in commands.all_served_views() {
        totals.observed += u64::from(view.observed_since.is_some());
        totals.polled += u64::from(view.path.manner != Manner::Observe);
        if view.trouble.is_none() {
            continue;
        }
        totals.troubled += 1;
        totals.named.push(ServedTrouble { device: device.to_string(), resource: resource(now, &view) });
        // The order is that of the ids: of very many no more are kept than are named.
        if totals.named.len() > 2 * NAMED {
            cut(&mut totals.named);
        }
    }
    cut(&mut totals.named);
    totals
}

fn cut(named: &mut Vec<ServedTrouble>) {
    named.sort_unstable_by(|a, b| {
        let key = |of: &ServedTrouble| {
            (
                !of.resource.has_stopped(),
                of.device.clone(),
                of.resource.table.clone(),
                of.resource.name.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    named.truncate(NAMED);
}

/// The counters.
pub fn count(commands: &Commands, snapshot: &mut Snapshot) {
    let counts = commands.served_counts();
    snapshot.put("tombolo_downlink_resource_requests_total", counts.asked);
    snapshot.put("tombolo_downlink_resource_values_total", counts.values);
    snapshot.put("tombolo_downlink_stale_notifications_total", counts.stale);
    snapshot.put("tombolo_downlink_resource_pauses_total", counts.failed);
}

fn described(path: &ServedPath) -> ServedResource {
    ServedResource {
        table: path.table().to_owned(),
        name: path.name.to_string(),
        path: path.path.clone(),
        reading: path.reading.clone(),
        every_s: match path.manner {
            Manner::Observe => None,
            Manner::Poll { every } => Some(every.as_secs()),
        },
        ..ServedResource::default()
    }
}

fn resource(now: Instant, view: &ServedView<'_>) -> ServedResource {
    let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
    ServedResource {
        heard: true,
        observed_s: view.observed_since.map(ago),
        value_s: view.value_at.map(ago),
        values: view.values,
        over_quota: view.over_quota,
        asked: view.asked,
        trouble: view.trouble.map(|(trouble, _)| trouble.to_owned()),
        // One that is not due yet does not wait.
        behind_command_s: view.behind_command.filter(|at| *at <= now).map(ago),
        remark: view.remark.clone(),
        again_s: view.trouble.and_then(|(_, at)| at).map(|at| at.saturating_duration_since(now).as_secs()),
        ..described(view.path)
    }
}
