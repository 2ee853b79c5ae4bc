//! The devices as `device list` and `device show` show them.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::deliveries::Deliveries;
use super::hub::Hub;
use super::mqtt_status;
use super::serial::Standing;
use super::served_status;
use crate::clock::UnixTime;
use crate::config::scalar::did_you_mean;
use crate::control::protocol::{Code, DEVICES_MAX, Failure};
use crate::control::snapshot::{
    DevicePage, DeviceState, LaneShare, LastFiltered, LastRefusal, LimitedDevice, RefusedFilter,
};
use crate::control::verdict::OVER_QUOTA;
use crate::gate::{DeviceIndex, DeviceView, Gate};
use crate::journal::Journal;
use crate::message::{Lane, Name};

/// Devices that are held back and named.
const LIMITED_NAMED: usize = 16;

/// How a device stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was active within its `offline-after`; a serial one can be there, too.
    Online,
    /// A serial one that answers, but none of whose values arrives.
    Degraded,
    /// It was seen, and is not there.
    Offline,
    /// It was not seen since the start.
    NotSeen,
}

impl Presence {
    /// By what the gate saw of it, and the standing of a serial one.
    pub fn of(view: &DeviceView<'_>, standing: Option<&Standing>) -> Presence {
        match standing {
            Some(standing) if standing.is_degraded() => Presence::Degraded,
            Some(standing) if !standing.is_there() && view.last_seen.is_some() => Presence::Offline,
            Some(standing) if !standing.is_there() => Presence::NotSeen,
            _ if view.online => Presence::Online,
            _ if view.last_seen.is_some() => Presence::Offline,
            _ => Presence::NotSeen,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Presence::Online => "online",
            Presence::Degraded => "degraded",
            Presence::Offline => "offline",
            Presence::NotSeen => "not seen",
        }
    }
}

/// One device, or the first [`DEVICES_MAX`] behind the id `after`, in the order of their ids.
///
/// # Errors
/// The device is not known.
pub fn page(
    hub: &Hub,
    deliveries: &Deliveries,
    standings: &BTreeMap<Name, Standing>,
    journal: &mut Journal,
    now: Instant,
    device: Option<&str>,
    after: Option<&str>,
) -> Result<DevicePage, Failure> {
    let gate = &hub.pipeline.gate;
    let mut views: Vec<DeviceView<'_>> = match device {
        Some(id) => {
            vec![known(hub, id).map(|device| gate.device(now, device))?.ok_or_else(|| unknown(hub, id))?]
        }
        None => gate.devices(now).filter(|view| after.is_none_or(|after| view.id.as_str() > after)).collect(),
    };
    let more = views.len() > DEVICES_MAX;
    if more {
        views.select_nth_unstable_by(DEVICES_MAX, |a, b| a.id.cmp(b.id));
        views.truncate(DEVICES_MAX);
    }
    views.sort_unstable_by(|a, b| a.id.cmp(b.id));
    let mut sessions: HashMap<DeviceIndex, u64> = HashMap::new();
    hub.engine.sessions(&mut |session| {
        if let Some(device) = hub.coap.session_device(session.session) {
            *sessions.entry(device).or_default() += 1;
        }
    });
    let mut shown = |view: &DeviceView<'_>| {
        let open = sessions.get(&view.index).copied().unwrap_or_default();
        let standing = standings.get(view.id);
        let state = show(hub, now, view, standing, open, deliveries.of(view.id.as_str()));
        DeviceState { lanes: lanes(journal, view.id.as_str()), ..state }
    };
    Ok(DevicePage { devices: views.iter().map(&mut shown).collect(), more })
}

fn lanes(journal: &mut Journal, device: &str) -> BTreeMap<String, LaneShare> {
    let shares = journal.share_of(device);
    let of = |lane: Lane| {
        let share = shares[lane.index()];
        (lane.as_str().to_owned(), LaneShare { bytes: share.bytes, max_bytes: share.max_bytes })
    };
    Lane::ALL.into_iter().map(of).filter(|(_, share)| share.bytes > 0).collect()
}

/// Adds to the explanation of a reading that would be stored what its device has of the share of
/// its lane.
pub fn add_share(journal: &mut Journal, value: &mut serde_json::Value) {
    let publish = &value["publish"];
    let Some(lane) = publish["lane"].as_str().filter(|_| publish["qos"] == 1) else { return };
    // Of a reading that is forwarded, the device that it is of.
    let device = value["on_behalf"]["device"].as_str().or(value["device"].as_str());
    let share = device.and_then(|device| lanes(journal, device).remove(lane));
    value["share"] = serde_json::to_value(share).unwrap_or_default();
}

/// The devices that are held back.
#[derive(Debug, Default)]
pub struct LimitedDevices {
    /// By their ids, some of them.
    pub named: Vec<LimitedDevice>,
    /// Those that are not named.
    pub more: u64,
    /// All, by reason; each reason is there.
    pub counts: BTreeMap<String, u64>,
}

/// The devices that are held back.
pub fn limited(gate: &Gate, now: Instant) -> LimitedDevices {
    let mut all = Vec::new();
    for view in gate.devices(now) {
        let Some(limited) = view.limited else { continue };
        let mut add = |reason: &str, (count, of): (u64, u64), seconds: u64| {
            all.push(LimitedDevice {
                device: view.id.to_string(),
                role: view.role.to_string(),
                reason: reason.to_owned(),
                count,
                of,
                seconds,
            });
        };
        if let Some((count, of, ago)) =
            limited.over_quota(now, view.accepted + view.filtered + u64::from(view.local))
        {
            add(OVER_QUOTA, (count, of), ago.as_secs());
        }
        if let Some(left) = limited.muted_for(now) {
            add("muted", (limited.mutes().into(), 0), left.as_secs() + 1);
        }
        for (reason, tally) in [("over_share", limited.over_share), ("too_often", limited.too_often)] {
            if let Some(last) = tally.last.filter(|_| tally.is_recent(now)) {
                add(reason, (tally.count.into(), 0), now.saturating_duration_since(last).as_secs());
            }
        }
    }
    all.sort_unstable_by(|a, b| (&a.device, &a.reason).cmp(&(&b.device, &b.reason)));
    let count = |reason: &&str| all.iter().filter(|of: &&LimitedDevice| of.reason == **reason).count() as u64;
    let reasons = ["muted", OVER_QUOTA, "over_share", "too_often"];
    let counts = reasons.iter().map(|reason| ((*reason).to_owned(), count(reason))).collect();
    let more = all.len().saturating_sub(LIMITED_NAMED) as u64;
    all.truncate(LIMITED_NAMED);
    LimitedDevices { named: all, more, counts }
}

/// The device of this id.
///
/// # Errors
/// There is none; the text says what may be meant.
pub fn known(hub: &Hub, id: &str) -> Result<DeviceIndex, Failure> {
    hub.pipeline.gate.device_by_id(id).ok_or_else(|| unknown(hub, id))
}

fn unknown(hub: &Hub, id: &str) -> Failure {
    let gate = &hub.pipeline.gate;
    if gate.is_withheld(id) {
        let text =
            format!("device {id} is switched off or disabled; `tombolo device show {id}` has the way out");
        return Failure::new(Code::NotFound, text);
    }
    let advice = match did_you_mean(id, gate.devices(hub.moment.now).map(|view| view.id.as_str())) {
        Some(near) => format!("did you mean {near}?"),
        None if gate.fleets().next().is_some() => {
            "`tombolo device list` lists all; a device of a fleet is known after its first session".to_owned()
        }
        None if gate.device_count() == 0 => {
            "it has none: `tombolo device add ID --role ROLE --psk` adds one".to_owned()
        }
        None => "`tombolo device list` names all".to_owned(),
    };
    Failure::new(Code::NotFound, format!("the running gateway has no device {id}; {advice}"))
}

fn show(
    hub: &Hub,
    now: Instant,
    view: &DeviceView<'_>,
    standing: Option<&Standing>,
    sessions: u64,
    delivered: u64,
) -> DeviceState {
    let presence = Presence::of(view, standing);
    let ago = |at: Instant| now.saturating_duration_since(at);
    let time = |at: Instant| {
        let ms = u64::try_from(ago(at).as_millis()).unwrap_or(u64::MAX);
        hub.moment.wall.map(|wall| UnixTime(wall.0.saturating_sub(ms)).to_string())
    };
    let reasons = view.refused.iter().filter(|(_, count)| *count > 0);
    let mqtt_refused = hub.mqtt.refused_connects_of(view.index);
    let refused_filters = hub.mqtt.refused_filters_of(view.index);
    DeviceState {
        id: view.id.to_string(),
        role: view.role.to_string(),
        label: view.label.map(str::to_owned),
        fleet: view.fleet.map(ToString::to_string),
        online: presence == Presence::Online,
        state: presence.as_str().to_owned(),
        state_reason: standing.and_then(|standing| standing.reason.clone()),
        last_seen: view.last_seen.and_then(time),
        last_seen_s: view.last_seen.map(|at| ago(at).as_secs()),
        sessions,
        mqtt_clients: hub.mqtt.clients_of(view.index) as u64,
        mqtt_refused: mqtt_refused.map_or(0, |(count, _)| count),
        last_mqtt_refused: mqtt_refused.map(|(_, last)| mqtt_status::refused(now, last)),
        refused_filters: refused_filters.map_or(0, |(count, _)| count),
        last_refused_filter: refused_filters
            .map(|(_, last)| RefusedFilter { ago_s: ago(last.at).as_secs(), filter: last.filter.clone() }),
        accepted: view.accepted,
        accepted_bytes: view.accepted_bytes,
        unstored: view.unstored.into(),
        delivered,
        filtered: view.filtered,
        local: view.local.into(),
        refused: view.refused.total(),
        refused_reasons: reasons
            .map(|(reason, count)| (reason.as_str().to_owned(), count.into()))
            .collect::<BTreeMap<_, _>>(),
        last_filtered: view.last_filtered.map(|last| {
            let [path, why] = last.texts();
            let rule = last.rule.as_ref().map(ToString::to_string);
            LastFiltered { at: time(last.at), ago_s: ago(last.at).as_secs(), path, why, rule }
        }),
        last_refusal: view.last_refusal.map(|last| {
            let (path, is_whole) = last.path();
            LastRefusal {
                at: time(last.at),
                ago_s: ago(last.at).as_secs(),
                path: if is_whole { path.to_owned() } else { format!("{path}…") },
                reason: last.refusal.reason().as_str().to_owned(),
                why: last.refusal.to_string(),
                rule: last.rule.as_ref().map(ToString::to_string),
            }
        }),
        muted_s: view.limited.and_then(|limited| limited.muted_for(now)).map(|left| left.as_secs() + 1),
        mutes: view.limited.map_or(0, |limited| limited.mutes().into()),
        over_share: view.limited.map_or(0, |limited| limited.over_share.count.into()),
        too_often: view.limited.map_or(0, |limited| limited.too_often.count.into()),
        lanes: BTreeMap::new(),
        new_key_used: None,
        served: served_status::of_device(&hub.commands, now, view),
    }
}
