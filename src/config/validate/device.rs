//! `[device.*]` and the registry: who there is, each once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Context;
use crate::config::finding::{Finding, Place};
use crate::config::layer::Item;
use crate::config::scalar::{did_you_mean, parse_psk};
use crate::config::{DeviceSource, Known, model};
use crate::gate::{Device, Psk, Role};
use crate::message::{Name, RESERVED_DEVICE};
use crate::southbound::serial;

/// A pre-shared key shorter than this is named: such a one can be guessed from one recorded handshake.
const WEAK_KEY: usize = 8;

/// The devices that can be used, in id order, and all that are known, the disabled ones too.
pub(super) fn devices(
    cx: &mut Context<'_>,
    file: &model::File,
    bad: &BTreeSet<Item>,
    roles: &[Role],
    ports: &mut serial::Settings,
) -> (Vec<Device>, Vec<Known>) {
    let mut all = All { taken: HashMap::new(), devices: Vec::new(), known: BTreeMap::new() };
    for (_, id) in bad.iter().filter(|(table, _)| table == "device") {
        let place = cx.place(&["device", id]).cloned();
        all.known(id, None, DeviceSource::Configuration, place, false);
    }
    for (id, table) in &file.device {
        if table.enabled != Some(false) {
            configured(cx, id, table, &Roles { file, bad, usable: roles }, &mut all);
        }
    }
    let usable = &Roles { file, bad, usable: roles };
    ports.retain(|port| serial_port(cx, file, port.name.as_str(), usable, &mut all));
    registered(cx, &Roles { file, bad, usable: roles }, &mut all);
    all.devices.sort_by(|a, b| a.id.cmp(&b.id));
    (all.devices, all.known.into_values().collect())
}

/// What has been taken so far.
struct All {
    /// PSK identities: whose, and where that one stands.
    taken: HashMap<Vec<u8>, (Name, Option<Place>)>,
    devices: Vec<Device>,
    known: BTreeMap<String, Known>,
}

impl All {
    fn known(
        &mut self,
        id: &str,
        device: Option<&Device>,
        source: DeviceSource,
        place: Option<Place>,
        usable: bool,
    ) {
        let known = Known {
            id: id.to_owned(),
            role: device.map(|d| d.role.to_string()),
            label: device.and_then(|d| d.label.clone()),
            psk_identity: device.and_then(|d| d.psk.as_ref()).map(|psk| psk.identity.clone()),
            source,
            place,
            usable,
        };
        self.known.insert(id.to_owned(), known);
    }

    /// Who else has this PSK identity.
    fn other(&self, device: &Device) -> Option<&(Name, Option<Place>)> {
        self.taken.get(&device.psk.as_ref()?.identity)
    }

    fn take(&mut self, device: Device, source: DeviceSource, place: Option<Place>) {
        self.known(device.id.as_str(), Some(&device), source, place.clone(), true);
        if let Some(psk) = &device.psk {
            self.taken.insert(psk.identity.clone(), (device.id.clone(), place));
        }
        self.devices.push(device);
    }
}

fn named(place: Option<&Place>) -> String {
    place.map_or_else(|| "elsewhere".to_owned(), Place::to_string)
}

fn configured(cx: &mut Context<'_>, id: &str, table: &model::Device, roles: &Roles<'_>, all: &mut All) {
    let place = cx.place(&["device", id]).cloned();
    let Some(device) = device(cx, id, table, roles) else {
        return all.known(id, None, DeviceSource::Configuration, place, false);
    };
    if let Some((other, elsewhere)) = all.other(&device) {
        let message = format!("device {other} ({}) has the same PSK identity", named(elsewhere.as_ref()));
        let key = ["device", id, if table.psk_identity.is_some() { "psk-identity" } else { "psk-file" }];
        cx.fail(&format!("device {id}"), &key, message, "give each device an identity of its own");
        return all.known(id, Some(&device), DeviceSource::Configuration, place, false);
    }
    all.take(device, DeviceSource::Configuration, place);
}

fn device(cx: &mut Context<'_>, id: &str, table: &model::Device, roles: &Roles<'_>) -> Option<Device> {
    let subject = format!("device {id}");
    let Some(role) = &table.role else {
        cx.fail(&subject, &["device", id], "the device has no role", "set role to one of the [role.*]");
        return None;
    };
    if !roles.has(role) {
        let (message, advice) = roles.missing(role);
        cx.fail(&subject, &["device", id, "role"], message, &advice);
        return None;
    }
    let psk = match (&table.psk_file, &table.psk_identity) {
        (Some(path), identity) => {
            let key = psk_key(cx, &subject, id, path)?;
            Some(Psk { identity: identity.as_deref().unwrap_or(id).as_bytes().to_vec(), key })
        }
        (None, Some(_)) => {
            let advice = "set psk-file too";
            cx.fail(&subject, &["device", id, "psk-identity"], "the identity has no key", advice);
            return None;
        }
        (None, None) => None,
    };
    Some(Device {
        id: Name::parse(id).ok()?,
        role: Name::parse(role).ok()?,
        label: table.label.clone(),
        psk,
        offline_after: table.offline_after.map(|span| span.0),
    })
}

/// A serial port is a device of its own: who it is, is which port it is. Whether it can be one.
fn serial_port(cx: &mut Context<'_>, file: &model::File, id: &str, roles: &Roles<'_>, all: &mut All) -> bool {
    let (Some(table), Ok(name)) = (file.serial.get(id), Name::parse(id)) else { return false };
    let subject = format!("serial {id}");
    if let Some(known) = all.known.get(id) {
        let message = format!("{} has a device of the same id", named(known.place.as_ref()));
        cx.fail(&subject, &["serial", id], message, "give the port another name");
        return false;
    }
    let place = cx.place(&["serial", id]).cloned();
    let role = match &table.role {
        Some(role) if roles.has(role) => Name::parse(role).ok(),
        Some(role) => {
            let (message, advice) = roles.missing(role);
            cx.fail(&subject, &["serial", id, "role"], message, &advice);
            None
        }
        None => {
            let advice = "set role to one of the [role.*]";
            cx.fail(&subject, &["serial", id], "the port has no role", advice);
            None
        }
    };
    let Some(role) = role else {
        all.known(id, None, DeviceSource::Configuration, place, false);
        return false;
    };
    let offline_after = table.offline_after.map(|span| span.0);
    let device = Device { id: name, role, label: table.label.clone(), psk: None, offline_after };
    all.take(device, DeviceSource::Configuration, place);
    true
}

fn psk_key(cx: &mut Context<'_>, subject: &str, id: &str, text: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let key = ["device", id, "psk-file"];
    let path = cx.secret(&key, text)?;
    let shown = path.display();
    let content = match cx.sources.files.read(&path) {
        Ok(content) => content,
        Err(error) => {
            let advice = "put the key there, as hex:… or text:…, readable to the service's user";
            cx.fail(subject, &key, format!("{shown} {error}"), advice);
            return None;
        }
    };
    if content.looked.exposed {
        cx.warn(subject, &key, format!("{shown} can be read by every user of this machine"), "chmod 0640");
    }
    if let Some(user) = &content.looked.closed_to {
        let advice = format!("chgrp it to the group of {user} and chmod 0640");
        cx.fail(subject, &key, format!("{shown} cannot be read by the service's user, {user}"), &advice);
    }
    match parse_psk(&content.bytes) {
        Ok(psk) => {
            if psk.len() < WEAK_KEY {
                let message = format!("the key in {shown} has only {} bytes and can be guessed", psk.len());
                cx.warn(subject, &key, message, "use 16 random bytes or more");
            }
            Some(psk)
        }
        Err(error) => {
            cx.fail(subject, &key, format!("{shown}: {error}"), "write it as hex:… or text:…, 1 to 64 bytes");
            None
        }
    }
}

/// The roles there are, and what is known of those that are not.
struct Roles<'a> {
    file: &'a model::File,
    bad: &'a BTreeSet<Item>,
    usable: &'a [Role],
}

impl Roles<'_> {
    fn has(&self, name: &str) -> bool {
        self.usable.binary_search_by(|role| role.name.as_str().cmp(name)).is_ok()
    }

    /// Why a role cannot be had, and the way out.
    fn missing(&self, name: &str) -> (String, String) {
        let faulty = self.bad.iter().any(|(table, item)| table == "role" && item == name);
        match self.file.role.get(name) {
            Some(table) if table.enabled == Some(false) => {
                (format!("the role {name:?} is switched off"), "take its enabled = false out".to_owned())
            }
            None if !faulty => {
                let names = || self.usable.iter().map(|role| role.name.as_str());
                let advice = match did_you_mean(name, names()) {
                    Some(name) => format!("did you mean {name:?}?"),
                    None if self.usable.is_empty() => "add a [role.NAME]".to_owned(),
                    None => format!("there are: {}", names().take(20).collect::<Vec<_>>().join(", ")),
                };
                (format!("there is no role {name:?}"), advice)
            }
            _ => (format!("the role {name:?} is disabled by its own faults"), "correct the role".to_owned()),
        }
    }
}

/// The registry's devices. What configuration has too is the configuration's.
fn registered(cx: &mut Context<'_>, roles: &Roles<'_>, all: &mut All) {
    let registry = cx.sources.registry.clone();
    for finding in registry.findings() {
        cx.findings.push(finding.clone());
    }
    // A role that is gone may have thousands of devices: one finding a role.
    let mut roleless: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in registry.entries() {
        let device = &entry.device;
        let id = device.id.as_str();
        let place = Place { file: entry.file.clone(), line: None };
        let fault = if id == RESERVED_DEVICE {
            Some(("this name is reserved".to_owned(), "remove the file"))
        } else if let Some(known) = all.known.get(id) {
            let message = format!("{} has a device of the same id", named(known.place.as_ref()));
            Some((message, "remove one of the two; the configuration's is in use"))
        } else if let Some((other, elsewhere)) = all.other(device) {
            let message = format!("device {other} ({}) has the same PSK identity", named(elsewhere.as_ref()));
            Some((message, "give each device an identity of its own"))
        } else {
            None
        };
        if let Some((message, advice)) = fault {
            cx.findings.push(Finding::fail(format!("device {id}"), message).at(Some(&place)).advice(advice));
            if !all.known.contains_key(id) {
                all.known(id, Some(device), DeviceSource::Registry, Some(place), false);
            }
        } else if !roles.has(device.role.as_str()) {
            roleless.entry(device.role.as_str()).or_default().push(id);
            all.known(id, Some(device), DeviceSource::Registry, Some(place), false);
        } else {
            all.take(device.clone(), DeviceSource::Registry, Some(place));
        }
    }
    for (role, ids) in roleless {
        let (message, advice) = roles.missing(role);
        let subject = match ids.as_slice() {
            [one] => format!("device {one}"),
            [first, ..] => format!("device {first} and {} more", ids.len() - 1),
            [] => continue,
        };
        cx.findings.push(Finding::fail(subject, message).advice(advice));
    }
}
