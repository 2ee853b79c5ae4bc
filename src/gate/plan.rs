//! Checks and compiles the settings: every fault of the settings is found here, before any reading
//! is accepted.
//!
//! A problem closes only the item it concerns: a role with an invalid rule allows nothing (the
//! invalid rule might have been a deny rule), and a device with an invalid setting is unknown.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::filter::Filter;
use super::mapping::{self, Mapping, MappingError, Spaces};
use super::on_behalf;
use super::policy::{self, Action, PAYLOAD_MAX, Role, Rule};
use super::quota::QuotaError;
use super::settings::{self, Settings, SharedDevice};
use super::template::TemplateError;
use crate::message::{Name, RESERVED_DEVICE};

/// The compiled settings that the gate decides by.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) gateway: Name,
    pub(super) prefix: String,
    pub(super) spaces: Spaces,
    pub(super) roles: Vec<Role>,
    /// Each fleet with the index of its role.
    pub(super) fleets: Vec<(Arc<settings::Fleet>, u32)>,
    /// Ids that no fleet may use.
    pub(super) withheld: HashSet<String>,
}

impl Plan {
    /// Whether no fleet may have a device of this id.
    pub(super) fn withholds(&self, id: &Name) -> bool {
        id.as_str() == RESERVED_DEVICE || self.withheld.contains(id.as_str())
    }
}

/// Settings ready to be taken over: all that is costly about them is done, so a reload can do it on
/// another thread.
#[derive(Debug)]
pub struct Prepared {
    pub(super) plan: Plan,
    /// Each device with the index of its role in the plan.
    pub(super) devices: Vec<(SharedDevice, u32)>,
    /// Ids and credentials that identify no device.
    pub(super) withheld: settings::Withheld,
    pub(super) problems: Vec<Problem>,
}

/// A fault in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The item that is closed because of it.
    pub item: Item,
    /// What is wrong.
    pub fault: Fault,
}

/// The part of the settings that a [`Problem`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `[topics]`: every role is closed.
    Topics,
    /// `[role.NAME]`
    Role(Name),
    /// `[role.NAME.uplink.RULE]`; the whole role is closed.
    Rule {
        /// The role's name.
        role: Name,
        /// The rule's name.
        rule: Name,
    },
    /// `[device.ID]`
    Device(Name),
    /// `[fleet.NAME]`
    Fleet(Name),
}

/// What is wrong with a part of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The prefix begins with `$`, is empty, has an empty level, a wildcard or a control character,
    /// or is too long.
    Prefix,
    /// Two allowing rules have the same pattern, so neither has precedence.
    Tie {
        /// The name of the other rule.
        with: Name,
    },
    /// The rule has no topic, and `topics.reading` is switched off.
    NoTopic,
    /// The topic does not fit the pattern.
    Template(TemplateError),
    /// The topic is one that this rule may not publish to.
    Mapping(MappingError),
    /// Some path of this rule maps to a topic that the gateway itself publishes to or subscribes
    /// to.
    OwnTopic {
        /// That topic, with its placeholders for devices and paths.
        topic: String,
        /// The configuration key that sets it, such as `topics.device-status`.
        key: String,
    },
    /// The topic needs an argument of the query, but the rule refuses requests with a query.
    QueryNeeded {
        /// The name of the argument.
        name: String,
    },
    /// `delete` without `retain`: a message that is not retained cannot be deleted.
    DeleteWithoutRetain,
    /// A deny rule has a key that only readings which pass could meet: it denies by path alone.
    DenyWith {
        /// The key.
        key: &'static str,
    },
    /// More content formats than [`FORMATS_MAX`](settings::FORMATS_MAX).
    TooManyFormats,
    /// The quota is invalid.
    Quota(QuotaError),
    /// `max-payload` is more than 65,536 bytes.
    PayloadLimit,
    /// `max-payload` is more than the byte bucket holds, so such a reading could never pass.
    PayloadExceedsQuota {
        /// The capacity of the byte bucket.
        bytes: u64,
    },
    /// Two roles have this name.
    DuplicateRole,
    /// Two devices have this id; the first is kept.
    DuplicateDevice,
    /// The reserved id `gateway` is used for a device.
    ReservedId,
    /// A topic of this rule has this device's id as a literal in the level that identifies the
    /// device.
    IdTaken {
        /// The role of the rule.
        role: Name,
        /// The rule.
        rule: Name,
    },
    /// There is no role of this name.
    UnknownRole {
        /// The name.
        role: Name,
    },
    /// Another device has the same credential; both are closed.
    DuplicateIdentity {
        /// The other device's id.
        with: Name,
        /// The credential they share.
        by: &'static str,
    },
    /// Two fleets have this name; the first is kept.
    DuplicateFleet,
    /// One certificate could match both fleets; the first is kept.
    FleetOverlap {
        /// The name of the first fleet.
        with: Name,
    },
    /// `max-devices` is not within 1 and 100,000.
    MaxDevices,
    /// The role has more than [`RULES_MAX`](on_behalf::RULES_MAX) on-behalf rules.
    TooManyOnBehalf,
    /// The device is its own parent.
    OwnParent,
    /// Its parent has a parent: no device speaks for another through a third.
    ParentIsChild {
        /// The parent.
        parent: Name,
    },
    /// Its parent has [`CHILDREN_MAX`](on_behalf::CHILDREN_MAX) children already.
    TooManyChildren {
        /// The parent.
        parent: Name,
    },
}

/// Largest `max-devices` of a fleet.
pub const FLEET_MAX: u32 = 100_000;

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Topics => f.write_str("topics"),
            Item::Role(role) => write!(f, "role.{role}"),
            Item::Rule { role, rule } => write!(f, "role.{role}.uplink.{rule}"),
            Item::Device(device) => write!(f, "device.{device}"),
            Item::Fleet(fleet) => write!(f, "fleet.{fleet}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Prefix => {
                "a prefix does not begin with '$' and has no empty level, no '+', '#' or control character"
            }
            Fault::Tie { with } => {
                return write!(f, "rule {with} has the same path, so neither of the two has precedence");
            }
            Fault::NoTopic => "the rule needs a topic, because topics.reading is switched off",
            Fault::Template(error) => return error.fmt(f),
            Fault::Mapping(error) => return error.fmt(f),
            Fault::OwnTopic { topic, key } => {
                return write!(f, "the topic could be {topic}, which is reserved for the gateway ({key})");
            }
            Fault::QueryNeeded { name } => {
                return write!(
                    f,
                    "the topic has {{query.{name}}}, but query = \"refuse\" refuses every request with a query"
                );
            }
            Fault::DeleteWithoutRetain => "delete needs retain: what is not retained cannot be deleted",
            Fault::DenyWith { key } => {
                return write!(
                    f,
                    "a rule with deny = true denies every reading at its path, so it has no {key}"
                );
            }
            Fault::TooManyFormats => {
                return write!(f, "a rule has at most {} content-formats", settings::FORMATS_MAX);
            }
            Fault::Quota(error) => return error.fmt(f),
            Fault::PayloadLimit => "max-payload is at most 64KiB",
            Fault::PayloadExceedsQuota { bytes } => {
                return write!(
                    f,
                    "max-payload is more than the quota's {bytes} bytes, so such a payload could never pass"
                );
            }
            Fault::DuplicateRole => "another role has the same name",
            Fault::DuplicateDevice => "another device has the same id",
            Fault::ReservedId => "the id 'gateway' is reserved for the gateway's own topics",
            Fault::IdTaken { role, rule } => {
                return write!(
                    f,
                    "rule {rule} of role {role} has this id as a level of its topic; choose another"
                );
            }
            Fault::UnknownRole { role } => return write!(f, "there is no role {role}"),
            Fault::DuplicateIdentity { with, by } => {
                return write!(f, "device {with} has the same {by}, so it identifies neither of them");
            }
            Fault::DuplicateFleet => "another fleet has the same name",
            Fault::FleetOverlap { with } => {
                return write!(f, "a certificate could also match fleet {with}");
            }
            Fault::MaxDevices => "max-devices is from 1 to 100000",
            Fault::TooManyOnBehalf => {
                return write!(f, "a role has at most {} on-behalf rules", on_behalf::RULES_MAX);
            }
            Fault::OwnParent => "a device is not its own parent",
            Fault::ParentIsChild { parent } => {
                return write!(
                    f,
                    "its parent {parent} has a parent itself, and no device speaks for another through a third"
                );
            }
            Fault::TooManyChildren { parent } => {
                return write!(f, "its parent {parent} has {} children already", on_behalf::CHILDREN_MAX);
            }
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.item, self.fault)
    }
}

impl From<Settings> for Prepared {
    fn from(settings: Settings) -> Prepared {
        Prepared::new(settings)
    }
}

impl Prepared {
    /// Checks and compiles. Never fails: an invalid item is closed and listed in
    /// [`Prepared::problems`].
    pub fn new(mut settings: Settings) -> Prepared {
        let devices = std::mem::take(&mut settings.devices);
        let fleets = std::mem::take(&mut settings.fleets);
        let mut withheld = std::mem::take(&mut settings.withheld);
        let mut draft = Draft { taken: BTreeMap::new(), problems: Vec::new() };
        let mut plan = draft.plan(settings);
        let devices = draft.devices(devices, &plan, &mut withheld);
        plan.fleets = draft.fleets(fleets, &plan);
        let ids = withheld.ids.iter().map(|id| id.to_string());
        plan.withheld = ids.chain(draft.taken.into_keys()).collect();
        Prepared { plan, devices, withheld, problems: draft.problems }
    }

    /// All problems, in the order of topics, roles, devices.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// All problems of `settings`, each with the item it closes.
pub fn check(settings: &Settings) -> Vec<Problem> {
    Prepared::new(settings.clone()).problems
}

struct Draft {
    /// Literal levels in the place of a device's id, each with the first rule that has it.
    taken: BTreeMap<String, (Name, Name)>,
    problems: Vec<Problem>,
}

impl Draft {
    fn plan(&mut self, settings: Settings) -> Plan {
        if !mapping::is_prefix(&settings.prefix) {
            self.problems.push(Problem { item: Item::Topics, fault: Fault::Prefix });
        }
        let spaces = Spaces::new(&settings);
        let mut names = HashSet::new();
        let mut roles = Vec::with_capacity(settings.roles.len());
        for role in &settings.roles {
            if names.insert(&role.name) {
                roles.push(self.role(role, &settings, &spaces));
            } else {
                self.problems
                    .push(Problem { item: Item::Role(role.name.clone()), fault: Fault::DuplicateRole });
            }
        }
        let (fleets, withheld) = (Vec::new(), HashSet::new());
        Plan { gateway: settings.gateway, prefix: settings.prefix, spaces, roles, fleets, withheld }
    }

    fn role(&mut self, role: &settings::Role, settings: &Settings, spaces: &Spaces) -> Role {
        let before = self.problems.len();
        self.limits(role);
        let (allow, deny, ties) = policy::matchers(role.uplink.iter().map(|rule| (&rule.path, rule.deny)));
        for tie in ties {
            let name = |number: u32| role.uplink[number as usize].name.clone();
            let item = Item::Rule { role: role.name.clone(), rule: name(tie.second) };
            self.problems.push(Problem { item, fault: Fault::Tie { with: name(tie.first) } });
        }
        let mut taken = BTreeMap::new();
        let mut rules = Vec::with_capacity(role.uplink.len());
        for rule in &role.uplink {
            let (name, pattern) = (rule.name.clone(), rule.path.clone());
            let from = rule.from.clone();
            let mut compiled = Rule { name, from, pattern, action: None, hits: Default::default() };
            let made = if rule.deny {
                match key_of_passing(rule) {
                    Some(key) => Err(Fault::DenyWith { key }),
                    None => Ok(None),
                }
            } else {
                action(rule, role, settings, spaces, &mut taken).map(Some)
            };
            match made {
                Ok(action) => compiled.action = action,
                Err(fault) => {
                    let item = Item::Rule { role: role.name.clone(), rule: rule.name.clone() };
                    self.problems.push(Problem { item, fault });
                }
            }
            rules.push(compiled);
        }
        let closed = self.problems.len() > before || !mapping::is_prefix(&settings.prefix);
        let (rules, allow, deny) = if closed {
            let (allow, deny, _) = policy::matchers(std::iter::empty());
            (Vec::new(), allow, deny)
        } else {
            for (level, rule) in taken {
                self.taken.entry(level).or_insert_with(|| (role.name.clone(), rule));
            }
            (rules, allow, deny)
        };
        Role::new(role, rules, (allow, deny))
    }

    fn limits(&mut self, role: &settings::Role) {
        let item = || Item::Role(role.name.clone());
        if let Some(limit) = role.max_payload {
            if limit > PAYLOAD_MAX {
                self.problems.push(Problem { item: item(), fault: Fault::PayloadLimit });
            } else if u64::from(limit) > role.quota.bytes {
                let fault = Fault::PayloadExceedsQuota { bytes: role.quota.bytes };
                self.problems.push(Problem { item: item(), fault });
            }
        }
        if role.on_behalf.len() > on_behalf::RULES_MAX {
            self.problems.push(Problem { item: item(), fault: Fault::TooManyOnBehalf });
        }
        if let Err(error) = role.quota.check() {
            self.problems.push(Problem { item: item(), fault: Fault::Quota(error) });
        }
    }

    /// The valid devices, each with the index of its role in the plan. The others are added to
    /// `withheld`.
    fn devices(
        &mut self,
        devices: Vec<SharedDevice>,
        plan: &Plan,
        withheld: &mut settings::Withheld,
    ) -> Vec<(SharedDevice, u32)> {
        let roles: HashMap<&str, u32> = plan.roles.iter().map(|role| role.name.as_str()).zip(0..).collect();
        let mut ids = HashSet::new();
        let first: Vec<bool> = devices.iter().map(|device| ids.insert(device.id.as_str())).collect();
        let twins = twins(&devices, &first);
        let mut families = Families::new(&devices);
        let mut faults: Vec<Option<Fault>> = Vec::with_capacity(devices.len());
        for (at, device) in devices.iter().enumerate() {
            faults.push(if !first[at] {
                Some(Fault::DuplicateDevice)
            } else if device.id.as_str() == RESERVED_DEVICE {
                Some(Fault::ReservedId)
            } else if let Some((role, rule)) = self.taken.get(device.id.as_str()) {
                Some(Fault::IdTaken { role: role.clone(), rule: rule.clone() })
            } else if !roles.contains_key(device.role.as_str()) {
                Some(Fault::UnknownRole { role: device.role.clone() })
            } else if let Some((other, by)) = twins[at] {
                Some(Fault::DuplicateIdentity { with: devices[other].id.clone(), by })
            } else {
                families.fault(device)
            });
        }
        drop((ids, families));
        let mut known = Vec::with_capacity(devices.len());
        for (device, fault) in devices.into_iter().zip(faults) {
            match (fault, roles.get(device.role.as_str())) {
                (None, Some(role)) => known.push((device, *role)),
                (Some(fault), _) => {
                    withheld.add(&device);
                    self.problems.push(Problem { item: Item::Device(device.id.clone()), fault });
                }
                (None, None) => {}
            }
        }
        known
    }

    /// The valid fleets, each with the index of its role in the plan.
    fn fleets(&mut self, fleets: Vec<settings::Fleet>, plan: &Plan) -> Vec<(Arc<settings::Fleet>, u32)> {
        let mut known: Vec<(Arc<settings::Fleet>, u32)> = Vec::new();
        for fleet in fleets {
            let role = plan.roles.iter().position(|role| role.name == fleet.role);
            let twin = known.iter().find(|(other, _)| other.certificate.overlaps(&fleet.certificate));
            let fault = if known.iter().any(|(other, _)| other.name == fleet.name) {
                Fault::DuplicateFleet
            } else if !(1..=FLEET_MAX).contains(&fleet.max_devices) {
                Fault::MaxDevices
            } else if let Some((other, _)) = twin {
                Fault::FleetOverlap { with: other.name.clone() }
            } else if let Some(role) = role {
                known.push((fleet.into(), role as u32));
                continue;
            } else {
                Fault::UnknownRole { role: fleet.role }
            };
            self.problems.push(Problem { item: Item::Fleet(fleet.name), fault });
        }
        known
    }
}

/// Which devices are behind others.
struct Families<'d> {
    /// The devices that have a parent.
    children: HashSet<&'d str>,
    /// How many children each has so far.
    sizes: HashMap<&'d str, usize>,
}

impl<'d> Families<'d> {
    fn new(devices: &'d [SharedDevice]) -> Families<'d> {
        let children = devices.iter().filter(|device| device.parent.is_some());
        Families { children: children.map(|device| device.id.as_str()).collect(), sizes: HashMap::new() }
    }

    /// What is wrong with the parent of the next device, if it has one. One that is no device now
    /// may be one of a fleet.
    fn fault(&mut self, device: &'d settings::Device) -> Option<Fault> {
        let parent = device.parent.as_ref()?;
        if *parent == device.id {
            return Some(Fault::OwnParent);
        }
        if self.children.contains(parent.as_str()) {
            return Some(Fault::ParentIsChild { parent: parent.clone() });
        }
        let size = self.sizes.entry(parent.as_str()).or_default();
        *size += 1;
        (*size > on_behalf::CHILDREN_MAX).then(|| Fault::TooManyChildren { parent: parent.clone() })
    }
}

/// For each device another device with the same credential, and which credential.
fn twins(devices: &[SharedDevice], first: &[bool]) -> Vec<Option<(usize, &'static str)>> {
    let mut twins = vec![None; devices.len()];
    let mut pair = |one: usize, other: usize, by| {
        twins[one] = twins[one].or(Some((other, by)));
        twins[other] = twins[other].or(Some((one, by)));
    };
    let mut by_psk: HashMap<&[u8], usize> = HashMap::new();
    let mut by_key: HashMap<&[u8], usize> = HashMap::new();
    let mut by_username: HashMap<&str, usize> = HashMap::new();
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, device) in devices.iter().enumerate().filter(|(at, _)| first[*at]) {
        for psk in device.psks() {
            match by_psk.entry(&psk.identity) {
                Vacant(place) => drop(place.insert(at)),
                Occupied(other) => pair(*other.get(), at, "PSK identity"),
            }
        }
        if let Some(key) = &device.public_key {
            match by_key.entry(key) {
                Vacant(place) => drop(place.insert(at)),
                Occupied(other) => pair(*other.get(), at, "public key"),
            }
        }
        if let Some(login) = &device.login {
            match by_username.entry(login.username.as_str()) {
                Vacant(place) => drop(place.insert(at)),
                Occupied(other) => pair(*other.get(), at, "MQTT user name"),
            }
        }
        if let Some(certificate) = &device.certificate {
            let others = by_name.entry(certificate.name()).or_default();
            let same = |other: &&usize| {
                devices[**other].certificate.as_ref().is_some_and(|other| other.overlaps(certificate))
            };
            for other in others.iter().filter(same) {
                pair(*other, at, "certificate");
            }
            others.push(at);
        }
    }
    twins
}

/// The action of an allowing rule. Literal levels in the place of a device's id are added to
/// `taken`.
fn action(
    rule: &settings::UplinkRule,
    role: &settings::Role,
    settings: &Settings,
    spaces: &Spaces,
    taken: &mut BTreeMap<String, Name>,
) -> Result<Action, Fault> {
    if rule.delete && !rule.retain {
        return Err(Fault::DeleteWithoutRetain);
    }
    if rule.max_payload.is_some_and(|limit| limit > PAYLOAD_MAX) {
        return Err(Fault::PayloadLimit);
    }
    if rule.content_formats.len() > settings::FORMATS_MAX {
        return Err(Fault::TooManyFormats);
    }
    let template = rule.topic.as_ref().or(settings.reading.as_ref()).ok_or(Fault::NoTopic)?;
    template.check_captures(&rule.path).map_err(Fault::Template)?;
    if rule.query == settings::QueryUse::Refuse
        && let Some(name) = template.query_names().next()
    {
        return Err(Fault::QueryNeeded { name: name.to_owned() });
    }
    let mut levels = BTreeSet::new();
    let mapping = Mapping::new(template, &rule.path, settings, &role.name, spaces, &mut levels)
        .map_err(Fault::Mapping)?;
    if let Some(own) = mapping.meets(&rule.path, spaces) {
        return Err(Fault::OwnTopic { topic: own.as_str().to_owned(), key: own.key().to_owned() });
    }
    for level in levels {
        taken.entry(level).or_insert_with(|| rule.name.clone());
    }
    let topic = [&settings.prefix, " ", template.as_str()].concat();
    Ok(Action {
        mapping,
        qos: rule.qos,
        retain: rule.retain,
        lane: rule.lane,
        expires_s: rule.expires.map(whole_seconds),
        envelope: rule.envelope,
        delete: rule.delete,
        query: rule.query,
        max_payload: rule.max_payload.unwrap_or(u32::MAX),
        content_formats: rule.content_formats.clone().into(),
        filter: Filter::new(&rule.filter, (&role.name, &rule.name, rule.path.as_str(), &topic), rule.qos),
    })
}

/// The first key of a rule that limits readings which pass.
fn key_of_passing(rule: &settings::UplinkRule) -> Option<&'static str> {
    let keys =
        [("max-payload", rule.max_payload.is_some()), ("content-formats", !rule.content_formats.is_empty())];
    keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key)).or_else(|| rule.filter.first_key())
}

/// Rounded up, so that no message expires too early.
fn whole_seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
