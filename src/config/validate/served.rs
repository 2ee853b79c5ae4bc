//! `[role.*.observe.*]`, `[role.*.poll.*]` and the same of devices: what the gateway asks of
//! devices that serve.
//!
//! A table of a nearer role replaces that of the same name of one that it includes, and a device's
//! own that of its role; `enabled = false` takes it out. A fault in one leaves out that one alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Context;
use super::includes;
use super::reach::{rhythm, rule};
use crate::config::acl::content_format;
use crate::config::{Sources, model};
use crate::downlink::served::{Manner, OF_DEVICE_MAX, ServedPath, ServedSettings};
use crate::gate;
use crate::message::{Name, Path};
use crate::proto::coap::block::size_exponent;

/// The tables of one role or device, by kind.
#[derive(Default)]
pub(super) struct Written {
    observe: BTreeMap<String, model::Served>,
    poll: BTreeMap<String, model::Served>,
    /// There is no device for them: it was removed, or was not added yet.
    is_left_over: bool,
}

impl Written {
    fn kinds(&self) -> impl Iterator<Item = (&'static str, &BTreeMap<String, model::Served>)> {
        [("observe", &self.observe), ("poll", &self.poll)]
            .into_iter()
            .filter(|(_, tables)| !tables.is_empty())
    }

    /// Its kinds of tables as headers.
    fn tables(&self, id: &str) -> String {
        let headers: Vec<String> = self.kinds().map(|(kind, _)| format!("[device.{id}.{kind}]")).collect();
        headers.join(" and ")
    }

    /// The kind and name of its first table.
    fn first(&self) -> Option<[&str; 2]> {
        let (kind, tables) = self.kinds().next()?;
        Some([kind, tables.keys().next()?])
    }
}

/// One table of a role or device: `None` takes the one that it replaces out.
type Found = BTreeMap<(&'static str, String), Option<ServedPath>>;

/// Takes the tables out of those of devices. A `[device.ID]` that has nothing else, for a device of
/// the registry or a CoAP node on a serial line, is not one of a device itself; without such a
/// device it is left over from one that was removed.
pub(super) fn tables(
    devices: &mut BTreeMap<String, model::Device>,
    file: &model::File,
    sources: &Sources<'_>,
) -> BTreeMap<String, Written> {
    let mut written = BTreeMap::new();
    for (id, table) in devices.iter_mut() {
        if !table.observe.is_empty() || !table.poll.is_empty() {
            let (observe, poll) = (std::mem::take(&mut table.observe), std::mem::take(&mut table.poll));
            written.insert(id.clone(), Written { observe, poll, is_left_over: false });
        }
    }
    let is_known = |id: &String| sources.registry.has_file(id) || is_node(file, id);
    let is_addition = |id: &String| {
        let table = devices.get(id);
        let has_nothing = table.is_some_and(|table| {
            table.enabled.is_none() && table.role.is_none() && !super::device::has_credential(table)
        });
        has_nothing && (is_known(id) || table.is_some_and(is_bare) && !file.serial.contains_key(id))
    };
    let additions: Vec<String> = written.keys().filter(|id| is_addition(id)).cloned().collect();
    for id in additions {
        devices.remove(&id);
        let is_left_over = !is_known(&id);
        written.entry(id).or_default().is_left_over = is_left_over;
    }
    written
}

/// Whether the table of a device, without observe and poll, has no other key that describes one.
fn is_bare(table: &model::Device) -> bool {
    let texts = [
        &table.label,
        &table.parent,
        &table.psk_identity,
        &table.mqtt_username,
        &table.password_file,
        &table.certificate_issuer,
    ];
    texts.into_iter().all(Option::is_none) && table.tags.is_empty() && table.offline_after.is_none()
}

/// What is asked for; `devices` as [`tables`] gives it.
pub(super) fn served(
    cx: &mut Context<'_>,
    file: &model::File,
    devices: &BTreeMap<String, Written>,
    gate: &gate::Settings,
) -> ServedSettings {
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    for (name, table) in &file.role {
        let own = parse(cx, ["role", name], (&table.observe, &table.poll));
        found.insert(name, own);
    }
    let mut roles: BTreeMap<Name, Found> = BTreeMap::new();
    for role in &gate.roles {
        let name = role.name.as_str();
        let order = includes::order(&file.role, name).unwrap_or_else(|_| vec![name]);
        let mut all = Found::new();
        for farther in order.iter().filter_map(|name| found.get(name)) {
            for (key, path) in farther {
                all.entry(key.clone()).or_insert_with(|| path.clone());
            }
        }
        if all.values().any(Option::is_some) {
            roles.insert(role.name.clone(), all);
        }
    }
    let mut settings = ServedSettings::default();
    for (name, all) in &roles {
        let Some(role) = gate.roles.iter().find(|role| role.name == *name) else { continue };
        let key = ["role", name.as_str()];
        for path in found.get(name.as_str()).into_iter().flat_map(BTreeMap::values).flatten() {
            let at = [key[0], key[1], path.table(), path.name.as_str()];
            rule(cx, role, &format!("role {name}"), &at, &path.reading);
        }
        reach(cx, file, gate, name);
        let paths = bounded(cx, &key, all);
        if is_polled_as_the_role_says(file, devices, gate, name) {
            pace(cx, role, &key, &paths);
        }
        settings.roles.insert(name.clone(), paths);
    }
    for (id, written) in devices {
        let key = ["device", id.as_str()];
        if written.is_left_over {
            let message = "there is no such device, so its tables observe and poll are without effect";
            let advice = format!(
                "take {} out, or add the device: `tombolo device add {id} --role ROLE --psk`",
                written.tables(id)
            );
            let place: Vec<&str> = key.into_iter().chain(written.first().into_iter().flatten()).collect();
            cx.warn(&format!("device {id}"), &place, message, &advice);
            continue;
        }
        let own = parse(cx, key, (&written.observe, &written.poll));
        let Some(device) = gate.devices.iter().find(|device| device.id.as_str() == id) else {
            continue;
        };
        let is_node = is_node(file, id);
        let has_credential =
            device.psk.is_some() || device.certificate.is_some() || device.public_key.is_some();
        if !is_node && !has_credential {
            let why = match (file.serial.contains_key(id), device.login.is_some()) {
                (true, _) => "it is on a serial line, which has no resources to ask for",
                (false, true) => {
                    "it has only an MQTT password, and an MQTT client has no resources to ask for"
                }
                (false, false) => "it has no DTLS credential, so that it cannot be asked",
            };
            let advice = format!("give it psk-file or a certificate, or take {} out", written.tables(id));
            let kind = written.first().map(|[kind, _]| kind);
            let place: Vec<&str> = key.into_iter().chain(kind).collect();
            cx.fail(&format!("device {id}"), &place, why, &advice);
            continue;
        }
        if let Some(role) = gate.roles.iter().find(|role| role.name == device.role) {
            for path in own.values().flatten() {
                let at = [key[0], key[1], path.table(), path.name.as_str()];
                rule(cx, role, &format!("device {id}"), &at, &path.reading);
            }
        }
        let has_polls = !written.poll.is_empty();
        let mut all = own;
        for (key, path) in roles.get(&device.role).into_iter().flatten() {
            all.entry(key.clone()).or_insert_with(|| path.clone());
        }
        let paths = bounded(cx, &key, &all);
        // Those of its role alone are judged there.
        if let Some(role) = gate.roles.iter().find(|role| role.name == device.role && has_polls) {
            pace(cx, role, &key, &paths);
        }
        settings.devices.insert(device.id.clone(), paths);
    }
    settings
}

/// Whether some device of the role has no tables `poll` of its own, judged with it, or may
/// yet come: of a fleet, or of a role without devices.
fn is_polled_as_the_role_says(
    file: &model::File,
    devices: &BTreeMap<String, Written>,
    gate: &gate::Settings,
    role: &Name,
) -> bool {
    let mut of_role = gate.devices.iter().filter(|device| device.role == *role).peekable();
    let has_own = |id: &str| devices.get(id).is_some_and(|written| !written.poll.is_empty());
    gate.fleets.iter().any(|fleet| fleet.role == *role)
        || of_role.peek().is_none()
        || of_role.any(|device| can_be_asked(file, device) && !has_own(device.id.as_str()))
}

/// Whether a device can be asked for its resources at all.
fn can_be_asked(file: &model::File, device: &gate::SharedDevice) -> bool {
    device.psk.is_some()
        || device.certificate.is_some()
        || device.public_key.is_some()
        || is_node(file, device.id.as_str())
}

/// Whether this is the CoAP node on a serial line.
fn is_node(file: &model::File, id: &str) -> bool {
    file.serial.get(id).is_some_and(|table| table.framing == Some(model::Framing::Slipmux))
}

/// Warns of a role none of whose devices can be asked.
fn reach(cx: &mut Context<'_>, file: &model::File, gate: &gate::Settings, role: &Name) {
    let mut devices = gate.devices.iter().filter(|device| device.role == *role).peekable();
    let is_of_fleet = gate.fleets.iter().any(|fleet| fleet.role == *role);
    if is_of_fleet || devices.peek().is_none() {
        return;
    }
    if devices.all(|device| !can_be_asked(file, device)) {
        let message = "it observes or polls its devices, and none of them has a DTLS credential";
        let advice = "only devices that serve over CoAP can be asked: take the tables out";
        cx.warn(&format!("role {role}"), &["role", role.as_str()], message, advice);
    }
}

/// Warns of polls that together give more readings than the quota lets pass.
fn pace(cx: &mut Context<'_>, role: &gate::Role, key: &[&str; 2], paths: &[ServedPath]) {
    let polls: Vec<(&str, Duration)> = paths
        .iter()
        .filter_map(|path| match path.manner {
            Manner::Poll { every } => Some((path.name.as_str(), every)),
            Manner::Observe => None,
        })
        .collect();
    let Some((fastest, _)) = polls.iter().min_by_key(|(_, every)| *every) else { return };
    let in_a_second: f64 = polls.iter().map(|(_, every)| every.as_secs_f64().recip()).sum();
    // Whole milliseconds: one poll has its own period, whatever its reciprocal is rounded to.
    let together = Duration::from_millis((1_000.0 / in_a_second).round() as u64);
    // The place is that of the fastest, which may be a table of a role.
    let own = [key[0], key[1], "poll", fastest, "every"];
    let place: &[&str] = if cx.has(&own) { &own } else { &key[..] };
    let advice = match polls.len() {
        1 => "poll it more rarely, or raise the quota of the role: what is over it is asked for in vain"
            .to_owned(),
        count => format!(
            "its {count} polls count together: poll more rarely, or raise the quota of the role; what is over it is \
             asked for in vain"
        ),
    };
    rhythm(cx, role, place, together, &advice);
}

/// At most [`OF_DEVICE_MAX`] of them.
fn bounded(cx: &mut Context<'_>, key: &[&str; 2], all: &Found) -> Vec<ServedPath> {
    let mut paths: Vec<ServedPath> = all.values().flatten().cloned().collect();
    if paths.len() > OF_DEVICE_MAX {
        let message = format!(
            "it has {} tables observe and poll, those of its role and of what that includes counted too; a device \
             has at most {OF_DEVICE_MAX}",
            paths.len()
        );
        cx.fail(&key.join(" "), key, message, "take some out: those beyond are not asked for");
        paths.truncate(OF_DEVICE_MAX);
    }
    paths
}

/// The tables of one role or device.
fn parse(cx: &mut Context<'_>, key: [&str; 2], (observe, poll): (&Tables, &Tables)) -> Found {
    let mut found = Found::new();
    for (kind, tables) in [("observe", observe), ("poll", poll)] {
        for (name, table) in tables {
            let path = if table.enabled == Some(false) {
                None
            } else {
                one(cx, &[key[0], key[1], kind, name], name, table)
            };
            found.insert((kind, name.clone()), path);
        }
    }
    found
}

type Tables = BTreeMap<String, model::Served>;

/// One table; `None` if it has a fault.
fn one(cx: &mut Context<'_>, key: &[&str; 4], name: &str, table: &model::Served) -> Option<ServedPath> {
    let subject = format!("{} {}", key[0], key[1]);
    let mut fail = |last: &str, message: String, advice: &str| {
        let key: Vec<&str> = key.iter().copied().chain([last]).filter(|part| !part.is_empty()).collect();
        cx.fail(&subject, &key, message, advice);
    };
    let Ok(own) = Name::parse(name) else {
        fail("", format!("{name:?} is not a name"), "use letters, digits, '.', '_' and '-'");
        return None;
    };
    let Some(path) = &table.path else {
        fail("", "it has no path".to_owned(), "set path, like \"sensors/temp\": the resource of the device");
        return None;
    };
    let like = "use segments joined by '/', like \"sensors/temp\"";
    let path = match Path::parse(path) {
        Ok(path) => path,
        Err(error) => {
            fail("path", format!("{path:?}: {error}"), like);
            return None;
        }
    };
    let text = table.reading.as_deref().unwrap_or(path.as_str());
    let last = if table.reading.is_some() { "as" } else { "path" };
    let reading = match Path::parse(text) {
        Ok(reading) if !reading.is_reserved() => reading,
        Ok(_) => {
            let advice = "set as to a path of its readings, like \"t/temp\"";
            fail(last, format!("{text:?} is reserved: no reading of this path passes"), advice);
            return None;
        }
        Err(error) => {
            fail(last, format!("{text:?}: {error}"), like);
            return None;
        }
    };
    let query = table.query.clone();
    if let Some(query) = query.as_ref().filter(|query| query.split('&').any(str::is_empty)) {
        fail(
            "query",
            format!("{query:?} has an empty argument"),
            "join arguments by '&', like \"unit=C&avg=1\"",
        );
        return None;
    }
    let accept = match table.accept.as_deref().map(content_format).transpose() {
        Ok(Some(None)) => {
            let advice = "use a media type or a number, like \"application/json\", or take it out";
            fail("accept", "\"none\" is no format that can be asked for".to_owned(), advice);
            return None;
        }
        Ok(accept) => accept.flatten(),
        Err(message) => {
            fail("accept", message, "use a media type or a number, like \"application/json\" or \"60\"");
            return None;
        }
    };
    let block_exponent = match table.block_size {
        None => None,
        Some(size) => match size_exponent(size) {
            Some(exponent) => Some(exponent),
            None => {
                let advice = "use 16, 32, 64, 128, 256, 512 or 1024";
                fail("block-size", format!("{size} is no size of blocks (RFC 7959)"), advice);
                return None;
            }
        },
    };
    let manner = match (key[2], table.every) {
        ("poll", Some(every)) => Manner::Poll { every: every.0 },
        ("poll", None) => {
            fail("", "it has no period".to_owned(), "set every, like \"5min\": at least 1s");
            return None;
        }
        _ => Manner::Observe,
    };
    let (path, reading) = (path.as_str().to_owned(), reading.as_str().to_owned());
    Some(ServedPath { name: own, manner, path, query, accept, block_exponent, reading })
}
