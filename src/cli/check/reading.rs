//! Which topics show whether readings pass: of each uplink rule one that no device uses, and those
//! that are proven by what the running gateway has delivered.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::config::{Loaded, Place};
use crate::control::snapshot::TakenReading;
use crate::gate::tag::Tags;
use crate::gate::template::Template;
use crate::gate::{self, Device, Explanation, Gate, SharedDevice};
use crate::message::{Method, Name};
use crate::northbound::io::probe::{LEVEL, ReadingTrial};

/// What of the rules is proven, and what is to be tried.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rules whose readings the broker has acknowledged on the connection that stands.
    pub proven: Vec<String>,
    /// Topics for the others, the first rule of each role before the second of any.
    pub trials: Vec<ReadingTrial>,
}

/// Of every role that a device has or, where there is none yet, that one could have. `taken`: what
/// the broker has acknowledged, by the reason codes of MQTT 5.
pub fn plan(loaded: &Loaded, taken: &[TakenReading]) -> Plan {
    let settings = &loaded.settings;
    let now = Instant::now();
    let known = &settings.gate.devices;
    let mut of_role: HashMap<&Name, Vec<&Device>> = HashMap::new();
    for device in known {
        of_role.entry(&device.role).or_default().push(device);
    }
    let mut imagined = settings.gate.clone();
    let of_fleets: Vec<&Name> = settings.gate.fleets.iter().map(|fleet| &fleet.role).collect();
    // Devices of fleets are not in the files.
    if let Some(role) = of_fleets.first() {
        let ids: BTreeSet<&str> = taken.iter().map(|taken| taken.device.as_str()).collect();
        let own: BTreeSet<&str> = known.iter().map(|device| device.id.as_str()).collect();
        let new = ids.difference(&own);
        let tags = settings.gate.fleets.first().map(|fleet| fleet.tags.clone()).unwrap_or_default();
        imagined.devices.extend(new.filter_map(|id| imagine(id, role, tags.clone()).map(SharedDevice::from)));
    }
    // Where there is no device, one for each role.
    let mut stand_ins: HashMap<&Name, Gate> = HashMap::new();
    if known.is_empty() {
        let roles = settings.gate.roles.iter();
        let wanted = roles.filter(|role| of_fleets.is_empty() || of_fleets.contains(&&role.name));
        let reading = settings.gate.reading.as_ref();
        // A gate of that role alone: to compile all roles for each of them takes long.
        let bare = gate::Settings { roles: Vec::new(), fleets: Vec::new(), ..settings.gate.clone() };
        stand_ins.extend(wanted.filter_map(|role| {
            let device = imagine(LEVEL, &role.name, all_tags(role, reading))?;
            let (roles, devices) = (vec![role.clone()], vec![device.into()]);
            Some((&role.name, Gate::new(gate::Settings { roles, devices, ..bare.clone() }, now)))
        }));
    }
    let gate = Gate::new(imagined, now);
    let explain = |gate: &Gate, device: &str, path: &str| {
        let explained = gate.explain(now, device, Method::Post, path);
        Some(explained).filter(|explained| explained.allowed && explained.publish.is_some())
    };
    let seen: BTreeSet<(String, String)> = taken
        .iter()
        .filter_map(|taken| {
            let explained = explain(&gate, &taken.device, &taken.path)?;
            // By other rules than these it may have been another topic.
            let same = explained.publish.as_ref().is_some_and(|publish| publish.topic == taken.topic);
            Some((explained.role?, explained.rule?)).filter(|_| same)
        })
        .collect();
    let mut plan = Plan::default();
    let mut places: HashMap<(String, bool), usize> = HashMap::new();
    let longest = settings.gate.roles.iter().map(|role| role.uplink.len()).max().unwrap_or(0);
    for index in 0..longest {
        for role in &settings.gate.roles {
            let Some(rule) = role.uplink.get(index).filter(|rule| !rule.deny) else { continue };
            let template = rule.topic.as_ref().or(settings.gate.reading.as_ref());
            let all = of_role.get(&role.name).map_or(&[][..], Vec::as_slice);
            // A rule that needs a tag is for the devices that have it.
            let has = |device: &Device| {
                template
                    .is_none_or(|template| template.tag_names().all(|name| device.tags.get(name).is_some()))
            };
            let device = all.iter().find(|device| has(device)).or(all.first());
            let (gate, id) = match (device, stand_ins.get(&role.name)) {
                (Some(device), _) => (&gate, device.id.as_str()),
                (None, Some(gate)) => (gate, LEVEL),
                (None, None) => continue,
            };
            let of = format!("rule {} of role {}", rule.name, role.name);
            if seen.contains(&(role.name.to_string(), rule.name.to_string())) {
                plan.proven.push(of);
                continue;
            }
            // Where it is written, for what may be found of it.
            let table = rule.from.as_ref().unwrap_or(&role.name);
            let of = match place(loaded, table.as_str(), rule.name.as_str()) {
                Some(place) => format!("{of} at {place}"),
                None => of,
            };
            let path = path(rule.path.as_str(), template.map_or("", |template| template.as_str()));
            let Some(Explanation { rule: decided, publish: Some(publish), .. }) = explain(gate, id, &path)
            else {
                continue;
            };
            // A more specific one decides there, and is tried itself.
            if decided.as_deref() != Some(rule.name.as_str()) {
                continue;
            }
            let beside = !publish.topic.contains(LEVEL);
            let topic = if beside { neighbour(&publish.topic) } else { publish.topic };
            let retain = publish.retain;
            let at = *places.entry((topic.clone(), retain)).or_insert(plan.trials.len());
            match plan.trials.get_mut(at) {
                Some(same) => same.of.push_str(&format!(", {of}")),
                None => {
                    plan.trials.push(ReadingTrial { topic, of, retain, beside, no_device: device.is_none() })
                }
            }
        }
    }
    plan
}

/// The file and line of a rule in the table of this role.
fn place<'a>(loaded: &'a Loaded, role: &str, rule: &str) -> Option<&'a Place> {
    let table = ["role", role, "uplink", rule];
    loaded.place(&table).or_else(|| loaded.place(&[table.as_slice(), &["path"]].concat()))
}

/// A device that there is not, of that role.
fn imagine(id: &str, role: &Name, tags: Tags) -> Option<Device> {
    Some(Device { tags, ..Device::new(Name::parse(id).ok()?, role.clone()) })
}

/// The tags that the topics of a role need, each with a value that no device has.
fn all_tags(role: &gate::Role, reading: Option<&Template>) -> Tags {
    let mut tags = Tags::default();
    let templates = role.uplink.iter().filter_map(|rule| rule.topic.as_ref().or(reading));
    for name in templates.flat_map(Template::tag_names) {
        // One more than a device may have is needed by no device.
        let _ = tags.set(name, LEVEL);
    }
    tags
}

/// A path that a pattern matches and no device uses, with the query that a template asks for.
fn path(pattern: &str, template: &str) -> String {
    let levels = pattern.split('/').map(|level| if matches!(level, "+" | "#") { LEVEL } else { level });
    let path = levels.collect::<Vec<_>>().join("/");
    let names = template.split("{query.").skip(1).filter_map(|rest| rest.split('}').next());
    let query: Vec<String> = names.map(|name| format!("{name}={LEVEL}")).collect();
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

/// A topic that devices use, with another last level.
fn neighbour(topic: &str) -> String {
    match topic.rsplit_once('/') {
        Some((before, _)) => format!("{before}/{LEVEL}"),
        None => LEVEL.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_pattern_is_one_that_no_device_uses() {
        assert_eq!(path("t/#", ""), "t/tombolo-check");
        assert_eq!(path("+/x/+", ""), "tombolo-check/x/tombolo-check");
        assert_eq!(path("#", "a/{query.unit}/{query.n}"), "tombolo-check?unit=tombolo-check&n=tombolo-check");
        assert_eq!(neighbour("tombolo/gw/d/up/temp"), "tombolo/gw/d/up/tombolo-check");
        assert_eq!(neighbour("temp"), "tombolo-check");
    }
}
