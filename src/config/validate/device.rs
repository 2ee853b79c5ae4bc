//! `[device.*]` and the registry: all devices, each with a unique id and unique credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Context;
use super::certificate::{Names, public_key};
use crate::config::finding::{Finding, Place};
use crate::config::layer::{Item, dotted};
use crate::config::scalar::{did_you_mean, parse_psk, parse_psk_identity};
use crate::config::{DeviceSource, Known, model};
use crate::gate::login::{Login, PASSWORD_MAX, PasswordHash, SALT_LENGTH};
use crate::gate::settings::Withheld;
use crate::gate::tag::Tags;
use crate::gate::{Device, Psk, Role, SharedDevice};
use crate::message::{Name, RESERVED_DEVICE};
use crate::proto::serial::modbus::settings::Unit;
use crate::southbound::serial;
use crate::southbound::serial::settings::{Duty, Port};

/// A pre-shared key shorter than this gets a warning: it can be guessed from one recorded
/// handshake.
const WEAK_KEY: usize = 8;

/// Largest key or password file, in bytes.
const SECRET_MAX: u64 = 64 << 10;

/// What there is.
pub(super) struct Found {
    /// The usable devices, in id order.
    pub(super) devices: Vec<SharedDevice>,
    /// All known devices, including disabled ones, in id order.
    pub(super) known: Vec<Known>,
    /// Disabled devices and those switched off.
    pub(super) withheld: Withheld,
    /// Ids that a `[device.ID]` without a credential switches off.
    pub(super) bare_off: Vec<String>,
}

/// Validates all devices.
pub(super) fn devices(
    cx: &mut Context<'_>,
    file: &model::File,
    tables: BTreeMap<String, model::Device>,
    bad: &BTreeSet<Item>,
    roles: &[Role],
    ports: &mut serial::Settings,
) -> Found {
    let mut all = All::default();
    let is_off = |table: &model::Device| table.enabled == Some(false);
    let off = tables.iter().filter(|(_, table)| is_off(table));
    let bare_off =
        off.clone().filter(|(_, table)| !has_credential(table)).map(|(id, _)| id.clone()).collect();
    // One with faults is reduced to `enabled = false`, too.
    let is_bad = |id: &String| bad.iter().any(|(table, item)| table == "device" && item == id);
    let off = off.map(|(id, _)| id.clone()).filter(|id| !is_bad(id)).collect();
    let usable = &Roles { file, bad, usable: roles, off: &off };
    for (_, id) in bad.iter().filter(|(table, _)| table == "device") {
        let place = cx.place(&["device", id]).cloned();
        all.unusable(id, None, DeviceSource::Configuration, place);
    }
    // Of two with one credential the later in the files is at fault: it is the new one.
    let mut tables: Vec<_> = tables.into_iter().collect();
    tables.sort_by_cached_key(|(id, _)| cx.index.rank(&dotted(["device", id.as_str()])));
    let mut left_out = Vec::new();
    for (id, table) in tables {
        if !is_off(&table) {
            configured(cx, &id, &table, usable, &mut all);
            continue;
        }
        switched_off(cx, &id, &table, &mut all);
        if !is_bad(&id) {
            left_out.push((id, table));
        }
    }
    let buses: BTreeSet<String> =
        ports.iter().filter(|port| is_bus(port)).map(|p| p.name.to_string()).collect();
    let first = first_of_each(cx, file, ports);
    ports.retain_mut(|port| {
        let Some(table) = file.serial.get(port.name.as_str()) else { return false };
        let mut serial =
            Serial { port: port.name.clone(), table, buses: &buses, first: &first, roles: usable };
        match &mut port.duty {
            Duty::Modbus(bus, _) => {
                bus.units.retain(|unit| serial.unit(cx, unit, &mut all));
                !bus.units.is_empty()
            }
            Duty::Readings { .. } | Duty::Slipmux { .. } => serial.itself(cx, &mut all),
        }
    });
    // A fleet must not create a device with the id of a port or unit that is switched off or
    // disabled.
    for (port, table) in &file.serial {
        let units = table.unit.values().filter_map(|unit| unit.id.as_deref());
        let unknown = units.chain([port.as_str()]).filter(|id| !all.known.contains_key(*id));
        all.withheld.ids.extend(unknown.filter_map(|id| Name::parse(id).ok()).collect::<Vec<_>>());
    }
    registered(cx, usable, &mut all);
    // One of the registry is there already.
    left_out.retain(|(id, _)| !all.known.contains_key(id));
    for (id, table) in left_out {
        let place = cx.place(&["device", &id]).cloned();
        // Its faults do not matter while it is off.
        let said = cx.findings.list.len();
        let device = device(cx, &id, &table, usable).ok().map(SharedDevice::from);
        cx.findings.list.truncate(said);
        all.known(&id, device, DeviceSource::Configuration, place, false);
        all.mark_off(&id);
    }
    all.devices.sort_by(|a, b| a.id.cmp(&b.id));
    all.devices.shrink_to_fit();
    Found { devices: all.devices, known: all.known.into_values().collect(), withheld: all.withheld, bare_off }
}

/// The ids and credentials in use so far.
#[derive(Default)]
struct All {
    /// PSK identities, with the index in `devices`.
    psk: HashMap<Vec<u8>, usize>,
    /// Public keys, with the index in `devices`.
    keys: HashMap<[u8; 32], usize>,
    /// MQTT user names, with the index in `devices`.
    usernames: HashMap<String, usize>,
    /// Certificate names, with the indices in `devices`; several devices may have one name with
    /// different issuers.
    names: HashMap<String, Vec<usize>>,
    devices: Vec<SharedDevice>,
    known: BTreeMap<String, Known>,
    withheld: Withheld,
}

/// Another device with the same credential.
struct Twin {
    id: Name,
    place: Option<Place>,
    /// The credential.
    by: &'static str,
}

impl Twin {
    fn message(&self) -> String {
        format!("device {} ({}) has the same {}", self.id, named(self.place.as_ref()), self.by)
    }
}

impl All {
    fn known(
        &mut self,
        id: &str,
        device: Option<SharedDevice>,
        source: DeviceSource,
        place: Option<Place>,
        usable: bool,
    ) {
        let known = Known { id: id.to_owned(), device, source, place, usable, switched_off: false };
        self.known.insert(id.to_owned(), known);
    }

    /// Adds a device that cannot be used; a fleet must not create one with its id or credentials.
    fn unusable(
        &mut self,
        id: &str,
        device: Option<SharedDevice>,
        source: DeviceSource,
        place: Option<Place>,
    ) {
        match &device {
            Some(device) => self.withheld.add(device),
            None => self.withheld.ids.extend(Name::parse(id)),
        }
        self.known(id, device, source, place, false);
    }

    /// Its owner has switched off this device, which is known.
    fn mark_off(&mut self, id: &str) {
        if let Some(known) = self.known.get_mut(id) {
            known.switched_off = true;
        }
    }

    /// Another device with the same credential as this one.
    fn twin(&self, device: &Device) -> Option<Twin> {
        let psk = device.psks().find_map(|psk| self.psk.get(&psk.identity));
        let key = device.public_key.as_ref().and_then(|key| self.keys.get(key));
        let certificate = device.certificate.as_ref().and_then(|certificate| {
            let mut others = self.names.get(certificate.name())?.iter();
            others.find(|at| self.devices[**at].certificate.as_ref().is_some_and(|c| c.overlaps(certificate)))
        });
        let username = device.login.as_ref().and_then(|login| self.usernames.get(&login.username));
        let twins = [
            (psk, "PSK identity"),
            (certificate, "certificate"),
            (key, "public key"),
            (username, "MQTT user name"),
        ];
        let (at, by) = twins.into_iter().find_map(|(at, by)| Some((*at?, by)))?;
        let id = self.devices[at].id.clone();
        let place = self.known.get(id.as_str()).and_then(|known| known.place.clone());
        Some(Twin { id, place, by })
    }

    fn take(&mut self, device: SharedDevice, source: DeviceSource, place: Option<Place>) {
        self.known(device.id.as_str(), Some(device.clone()), source, place, true);
        let at = self.devices.len();
        for psk in device.psks() {
            self.psk.insert(psk.identity.clone(), at);
        }
        if let Some(key) = device.public_key {
            self.keys.insert(key, at);
        }
        if let Some(login) = &device.login {
            self.usernames.insert(login.username.clone(), at);
        }
        if let Some(certificate) = &device.certificate {
            self.names.entry(certificate.name().to_owned()).or_default().push(at);
        }
        self.devices.push(device);
    }
}

fn named(place: Option<&Place>) -> String {
    place.map_or_else(|| "elsewhere".to_owned(), Place::to_string)
}

fn configured(cx: &mut Context<'_>, id: &str, table: &model::Device, roles: &Roles<'_>, all: &mut All) {
    let place = cx.place(&["device", id]).cloned();
    let Ok(device) = device(cx, id, table, roles).map(SharedDevice::from) else {
        // The valid part of its certificate is withheld too.
        switched_off(cx, id, table, all);
        return all.known(id, None, DeviceSource::Configuration, place, false);
    };
    if let Some(twin) = all.twin(&device) {
        let key = match twin.by {
            "PSK identity" if table.psk_identity.is_some() => "psk-identity",
            "PSK identity" => "psk-file",
            "public key" if table.public_key.is_some() => "public-key",
            "public key" => "public-key-file",
            "MQTT user name" if table.mqtt_username.is_some() => "mqtt-username",
            "MQTT user name" => "password-file",
            _ => device.certificate.as_ref().map_or("role", |certificate| certificate.kind().key()),
        };
        let advice = "give each device an identity of its own";
        cx.fail(&format!("device {id}"), &["device", id, key], twin.message(), advice);
        return all.unusable(id, Some(device), DeviceSource::Configuration, place);
    }
    all.take(device, DeviceSource::Configuration, place);
}

/// Adds a device that is switched off and withheld from fleets.
fn switched_off(cx: &mut Context<'_>, id: &str, table: &model::Device, all: &mut All) {
    all.withheld.ids.extend(Name::parse(id));
    let said = cx.findings.list.len();
    all.withheld.certificates.extend(names(table).device(cx, id).ok().flatten());
    let key = public_key(cx, id, table.public_key_file.as_deref(), table.public_key.as_deref());
    all.withheld.public_keys.extend(key.ok().flatten());
    // Its faults are already reported, or do not matter while it is off.
    cx.findings.list.truncate(said);
}

/// Whether any credential is written there, right or wrong.
pub(super) fn has_credential(table: &model::Device) -> bool {
    let names = [&table.psk_file, &table.certificate_uri, &table.certificate_dns, &table.certificate_cn];
    names.into_iter().chain([&table.public_key, &table.public_key_file]).any(Option::is_some)
}

fn names(table: &model::Device) -> Names<'_> {
    Names {
        uri: table.certificate_uri.as_deref(),
        dns: table.certificate_dns.as_deref(),
        common_name: table.certificate_cn.as_deref(),
        issuer: table.certificate_issuer.as_deref(),
    }
}

fn device(cx: &mut Context<'_>, id: &str, table: &model::Device, roles: &Roles<'_>) -> Result<Device, ()> {
    let subject = format!("device {id}");
    let role = roles.role(cx, "device", id, table.role.as_deref()).ok_or(())?;
    let psk = match (&table.psk_file, &table.psk_identity) {
        (Some(path), identity) => {
            let key = psk_key(cx, &subject, id, path).ok_or(())?;
            let text = identity.as_deref().unwrap_or(id);
            let Some(identity) = parse_psk_identity(text) else {
                let advice = "use 1 to 128 bytes of text, or hex: in small letters and two hexadecimal digits for each byte";
                let key = ["device", id, "psk-identity"];
                cx.fail(&subject, &key, format!("{text:?} is no identity"), advice);
                return Err(());
            };
            Some(Psk { identity, key })
        }
        (None, Some(_)) => {
            let advice = "set psk-file too";
            cx.fail(&subject, &["device", id, "psk-identity"], "psk-identity is set without a key", advice);
            return Err(());
        }
        (None, None) => None,
    };
    let login = login(cx, &subject, id, table)?;
    Ok(Device {
        label: table.label.clone(),
        tags: tags(cx, &subject, &["device", id], &table.tags)?,
        psk,
        certificate: names(table).device(cx, id)?,
        public_key: public_key(cx, id, table.public_key_file.as_deref(), table.public_key.as_deref())?,
        login: login.map(Box::new),
        offline_after: table.offline_after.map(|span| span.0),
        parent: table.parent.as_deref().and_then(|parent| Name::parse(parent).ok()),
        ..Device::new(Name::parse(id).map_err(drop)?, role)
    })
}

/// The tags in the table at `key`.
pub(super) fn tags(
    cx: &mut Context<'_>,
    subject: &str,
    key: &[&str],
    table: &model::Tags,
) -> Result<Tags, ()> {
    let mut tags = Tags::default();
    for (name, value) in table {
        // Each is checked where it stands; only together they may be too many.
        if let Err(error) = tags.set(name, value.as_deref().unwrap_or_default()) {
            let key = [key, &["tags"]].concat();
            cx.fail(subject, &key, error.to_string(), "take some out");
            return Err(());
        }
    }
    Ok(tags)
}

/// The MQTT user name, and the password of a file: as text, or as the hash that `device add` makes.
fn login(cx: &mut Context<'_>, subject: &str, id: &str, table: &model::Device) -> Result<Option<Login>, ()> {
    let Some(file) = &table.password_file else {
        if table.mqtt_username.is_some() {
            let advice = "set password-file too";
            let message = "mqtt-username is set without a password";
            cx.fail(subject, &["device", id, "mqtt-username"], message, advice);
            return Err(());
        }
        return Ok(None);
    };
    let key = ["device", id, "password-file"];
    let path = cx.secret(&key, file).ok_or(())?;
    let shown = path.display();
    let content = match cx.sources.files.read(&path, SECRET_MAX) {
        Ok(content) => content,
        Err(_) if cx.is_out_of_sight(&path) => {
            cx.out_of_sight(subject, &key);
            return Err(());
        }
        Err(error) => {
            let advice = super::way_to_read(&error, "put the password there");
            cx.fail(subject, &key, format!("{shown} {error}"), &advice);
            return Err(());
        }
    };
    cx.judge(subject, &key, &path, &content.looked, true);
    let text = content.bytes.trim_ascii();
    let password = if let Some(literal) = text.strip_prefix(b"text:") {
        // The file has it in the clear, so that a costly hash would protect nothing.
        let fits = (1..=PASSWORD_MAX).contains(&literal.len());
        fits.then(|| PasswordHash::of_generated(literal, [0; SALT_LENGTH]))
    } else {
        std::str::from_utf8(text).ok().and_then(PasswordHash::parse)
    };
    let Some(password) = password else {
        let advice = "write text: and the password of 1 to 255 bytes, or a hash, which begins with sha256: or $argon2id$";
        cx.fail(subject, &key, format!("{shown} has no password"), advice);
        return Err(());
    };
    let username = table.mqtt_username.as_deref().unwrap_or(id).to_owned();
    Ok(Some(Login { username, password }))
}

fn is_bus(port: &Port) -> bool {
    matches!(port.duty, Duty::Modbus(..))
}

/// The table in which an id of a serial device stands first in the files.
struct First {
    rank: (u32, u32),
    key: String,
    place: Option<Place>,
}

/// Of each id of the ports' devices the first table: a later one is the new one, and at fault.
fn first_of_each(cx: &Context<'_>, file: &model::File, ports: &[Port]) -> HashMap<Name, First> {
    let mut all: HashMap<Name, First> = HashMap::new();
    for port in ports {
        let Some(table) = file.serial.get(port.name.as_str()) else { continue };
        let own = ["serial", port.name.as_str()];
        let mut add = |id: &Name, key: &[&str]| {
            let own = dotted(key.iter().copied());
            let rank = cx.index.rank(&own);
            if all.get(id).is_none_or(|first| rank < first.rank) {
                all.insert(id.clone(), First { rank, key: own, place: cx.place(key).cloned() });
            }
        };
        match &port.duty {
            Duty::Modbus(bus, _) => {
                for unit in &bus.units {
                    let Some(key) = super::reach::key_of(table, unit) else { continue };
                    add(&unit.id, &[own[0], own[1], "unit", key]);
                }
            }
            Duty::Readings { .. } | Duty::Slipmux { .. } => add(&port.name, &own),
        }
    }
    all
}

/// A serial port and its devices.
struct Serial<'a> {
    port: Name,
    table: &'a model::Serial,
    /// Names of all ports that are buses.
    buses: &'a BTreeSet<String>,
    first: &'a HashMap<Name, First>,
    roles: &'a Roles<'a>,
}

impl Serial<'_> {
    /// Adds the device of a serial port, which the port identifies. Returns whether it is usable.
    fn itself(&self, cx: &mut Context<'_>, all: &mut All) -> bool {
        let table = self.table;
        let port = self.port.clone();
        let key = ["serial", port.as_str()];
        let Ok(tags) = tags(cx, &format!("serial {port}"), &key, &table.tags) else { return false };
        let words = ("port", "give the port another name");
        self.device(cx, all, &key, &port, &table.role, words, |role| Device {
            label: table.label.clone(),
            tags,
            offline_after: table.offline_after.map(|span| span.0),
            ..Device::new(port.clone(), role)
        })
    }

    /// Adds the device of a unit on a bus, which its address identifies. Returns whether it is
    /// usable.
    fn unit(&mut self, cx: &mut Context<'_>, unit: &Unit, all: &mut All) -> bool {
        let Some(key) = super::reach::key_of(self.table, unit) else { return false };
        let Some(table) = self.table.unit.get(key) else { return false };
        let port = self.port.clone();
        let key = ["serial", port.as_str(), "unit", key];
        if self.buses.contains(unit.id.as_str()) {
            let whole = [&key[..], &["id"]].concat();
            let message = format!("{:?} is the name of a bus", unit.id.as_str());
            cx.fail(&format!("serial {port}"), &whole, message, "use another id");
            return false;
        }
        let Ok(tags) = tags(cx, &format!("serial {port}"), &key, &table.tags) else { return false };
        let words = ("unit", "give the unit another id");
        self.device(cx, all, &key, &unit.id, &table.role, words, |role| Device {
            label: table.label.clone(),
            tags,
            offline_after: table.offline_after.map(|span| span.0),
            ..Device::new(unit.id.clone(), role)
        })
    }

    /// The device at `key`, if its id is unique and its role exists. `words`: its kind, and the
    /// remedy for a duplicate id.
    #[allow(clippy::too_many_arguments)]
    fn device(
        &self,
        cx: &mut Context<'_>,
        all: &mut All,
        key: &[&str],
        id: &Name,
        role: &Option<String>,
        words: (&str, &str),
        device: impl FnOnce(Name) -> Device,
    ) -> bool {
        let subject = format!("serial {}", self.port);
        if self.roles.is_off(id.as_str()) {
            let by = named(cx.place(&["device", id.as_str(), "enabled"]));
            cx.fail(&subject, key, format!("{by} switches off the device of this id"), words.1);
            return false;
        }
        let known = all.known.get(id.as_str()).map(|known| known.place.clone());
        let own = dotted(key.iter().copied());
        let earlier = || self.first.get(id).filter(|first| first.key != own).map(|first| first.place.clone());
        if let Some(place) = known.or_else(earlier) {
            let message = format!("{} has a device of the same id", named(place.as_ref()));
            cx.fail(&subject, key, message, words.1);
            return false;
        }
        let place = cx.place(key).cloned();
        let Some(role) = self.roles.role_at(cx, &subject, key, words.0, role.as_deref()) else {
            all.unusable(id.as_str(), None, DeviceSource::Configuration, place);
            return false;
        };
        all.take(device(role).into(), DeviceSource::Configuration, place);
        true
    }
}

fn psk_key(cx: &mut Context<'_>, subject: &str, id: &str, text: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let key = ["device", id, "psk-file"];
    let path = cx.secret(&key, text)?;
    let shown = path.display();
    let content = match cx.sources.files.read(&path, SECRET_MAX) {
        Ok(content) => content,
        Err(crate::config::FileError::Denied) if cx.sources.files.is_outsider() => {
            cx.closed(subject, &key, &path);
            return None;
        }
        Err(_) if cx.is_out_of_sight(&path) => {
            cx.out_of_sight(subject, &key);
            return None;
        }
        Err(error) => {
            let advice = super::way_to_read(&error, "put the key there, as hex:… or text:…");
            cx.fail(subject, &key, format!("{shown} {error}"), &advice);
            return None;
        }
    };
    cx.judge(subject, &key, &path, &content.looked, true);
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

/// The usable roles, and the reasons for others.
pub(super) struct Roles<'a> {
    pub(super) file: &'a model::File,
    pub(super) bad: &'a BTreeSet<Item>,
    pub(super) usable: &'a [Role],
    /// Devices that a `[device.ID]` without faults switches off.
    pub(super) off: &'a BTreeSet<String>,
}

impl Roles<'_> {
    /// The role that `[table.item]` names; `None` after a finding.
    pub(super) fn role(
        &self,
        cx: &mut Context<'_>,
        table: &str,
        item: &str,
        role: Option<&str>,
    ) -> Option<Name> {
        self.role_at(cx, &format!("{table} {item}"), &[table, item], table, role)
    }

    /// The role that the table at `key` names, which is that of a `what`; `None` after a finding.
    fn role_at(
        &self,
        cx: &mut Context<'_>,
        subject: &str,
        key: &[&str],
        what: &str,
        role: Option<&str>,
    ) -> Option<Name> {
        match role {
            Some(role) => {
                if let Some(known) = self.known(role) {
                    // All its devices share its name.
                    return Some(known.name.clone());
                }
                let (message, advice) = self.missing(role);
                cx.fail(subject, &[key, &["role"]].concat(), message, &advice);
                None
            }
            None => {
                let message = format!("the {what} has no role");
                cx.fail(subject, key, message, "set role to one of the [role.*]");
                None
            }
        }
    }

    /// Whether `[device.ID]` switches this device off, wherever else it is defined.
    fn is_off(&self, id: &str) -> bool {
        self.off.contains(id)
    }

    fn known(&self, name: &str) -> Option<&Role> {
        let at = self.usable.binary_search_by(|role| role.name.as_str().cmp(name)).ok()?;
        self.usable.get(at)
    }

    /// Why a role cannot be used, and the remedy.
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

/// Adds the devices of the registry. The configuration has precedence for the same id, also where
/// it only switches the device off.
fn registered(cx: &mut Context<'_>, roles: &Roles<'_>, all: &mut All) {
    let registry = cx.sources.registry.clone();
    for finding in registry.findings() {
        cx.findings.push(finding.clone());
    }
    // A missing role may have thousands of devices, so there is one finding per role.
    let mut roleless: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in registry.entries() {
        let device = &entry.device;
        let id = device.id.as_str();
        let place = Place { file: entry.file.clone(), line: None };
        if roles.is_off(id) && !all.known.contains_key(id) {
            let key = ["device", id, "enabled"];
            let message = format!("switches off the device in {}: nothing of it is accepted", entry.file);
            let advice = format!(
                "if that is no longer meant, take [device.{id}] out; `tombolo device remove {id}` removes the device itself"
            );
            cx.warn(&format!("device {id}"), &key, message, &advice);
            all.unusable(id, Some(device.clone()), DeviceSource::Registry, Some(place));
            all.mark_off(id);
            continue;
        }
        if !entry.enabled && !all.known.contains_key(id) {
            all.unusable(id, Some(device.clone()), DeviceSource::Registry, Some(place));
            all.mark_off(id);
            continue;
        }
        let fault = if id == RESERVED_DEVICE {
            Some(("this name is reserved".to_owned(), "remove the file"))
        } else if let Some(known) = all.known.get(id) {
            let message = format!("{} has a device of the same id", named(known.place.as_ref()));
            Some((message, "remove one of the two; the configuration's is in use"))
        } else {
            all.twin(device).map(|twin| (twin.message(), "give each device an identity of its own"))
        };
        if let Some((message, advice)) = fault {
            cx.findings.push(Finding::fail(format!("device {id}"), message).at(Some(&place)).advice(advice));
            if !all.known.contains_key(id) {
                all.unusable(id, Some(device.clone()), DeviceSource::Registry, Some(place));
            }
        } else if roles.known(device.role.as_str()).is_none() {
            roleless.entry(device.role.as_str()).or_default().push(id);
            all.unusable(id, Some(device.clone()), DeviceSource::Registry, Some(place));
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
