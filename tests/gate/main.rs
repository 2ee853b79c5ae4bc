//! The gate through its public interface: settings and readings in, topics or refusals out.

mod allocation;
mod explain;
mod filters;
mod identity;
mod limits;
mod local_clients;
mod namespace;
mod on_behalf;
mod own_topics;
mod presence;
mod query;
mod reload;
mod reply;
mod roll;
mod rules;
mod scale;
mod settings;
mod tags;

use std::time::{Duration, Instant};

use tombolo::gate::pattern::Pattern;
use tombolo::gate::template::Template;
use tombolo::gate::{Device, Gate, Psk, QoS, Quota, Received, Refusal, Role, Settings, UplinkRule};
use tombolo::message::{Content, Method, Name, Path, Stamp};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const STAMP: Stamp = Stamp { boottime_ms: 1, wall_ms: None };

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A rule that allows, QoS 1, normal lane.
pub fn rule(name_: &str, path: &str) -> UplinkRule {
    UplinkRule::new(name(name_), Pattern::parse(path).unwrap())
}

pub fn deny(name: &str, path: &str) -> UplinkRule {
    UplinkRule { deny: true, ..rule(name, path) }
}

pub fn to(name: &str, path: &str, topic: &str) -> UplinkRule {
    UplinkRule { topic: Some(Template::parse(topic).unwrap()), ..rule(name, path) }
}

/// A role whose quota never runs out in a test that is not about it.
pub fn role(name_: &str, uplink: Vec<UplinkRule>) -> Role {
    Role {
        quota: Quota { messages: 1_000_000, bytes: 1 << 40, per: Duration::from_secs(1), burst: 1_000_000 },
        uplink,
        ..Role::new(name(name_))
    }
}

pub fn psk(identity: &str, key: &str) -> Psk {
    Psk { identity: identity.as_bytes().to_vec(), key: key.as_bytes().to_vec().into() }
}

/// A device with a key, whose identity is its id.
pub fn device(id: &str, role: &str) -> Device {
    let psk = Some(psk(id, &format!("key of {id}")));
    Device { psk, ..Device::new(name(id), name(role)) }
}

pub fn settings(roles: Vec<Role>, devices: Vec<Device>) -> Settings {
    Settings {
        gateway: name("gw"),
        prefix: "tombolo/gw".to_owned(),
        reading: Some(Template::parse("{prefix}/{device}/up/{path}").unwrap()),
        own: Default::default(),
        reply: None,
        roles,
        devices: devices.into_iter().map(Device::into).collect(),
        fleets: Vec::new(),
        withheld: Default::default(),
    }
}

/// A gate with the device `door-7` in a role of these rules, and a second device `other`.
pub fn gate(rules: Vec<UplinkRule>) -> Gate {
    let settings =
        settings(vec![role("sensor", rules)], vec![device("door-7", "sensor"), device("other", "sensor")]);
    let gate = Gate::new(settings, Instant::now());
    assert_eq!(gate.problems(), []);
    gate
}

pub fn received<'a>(method: Method, path: &'a str, payload: &'a [u8]) -> Received<'a> {
    let path = Path::parse(path).unwrap();
    Received { path, query: None, method, payload, content_format: None, blockwise: false, stamp: STAMP }
}

/// What becomes of a reading of `door-7`; without the borrow, the topic and the rule.
pub fn say(gate: &mut Gate, method: Method, path: &str, payload: &[u8]) -> Result<(String, String), Refusal> {
    say_as(gate, "door-7", method, path, payload, |content| content.topic.to_owned())
}

pub fn post(gate: &mut Gate, path: &str) -> Result<(String, String), Refusal> {
    say(gate, Method::Post, path, b"21.5")
}

pub fn say_as<T>(
    gate: &mut Gate,
    device: &str,
    method: Method,
    path: &str,
    payload: &[u8],
    look: impl FnOnce(Content<'_>) -> T,
) -> Result<(T, String), Refusal> {
    let device = gate.device_by_id(device).expect("the device is known");
    let admitted = gate.admit(Instant::now(), device, received(method, path, payload))?;
    let mapped = admitted.passed().expect("no filter");
    Ok((look(mapped.content()), mapped.rule().unwrap().to_string()))
}
